"""Chinese translations of the words in rendered tables."""

from __future__ import annotations

__all__ = [
    "CHINESE",
]

# English text of the tables to Chinese. Names and licence texts are not translated.
CHINESE = {
    "Flag": "参数",
    "Meaning": "含义",
    "network of any kind": "任意种类的网络",
    "read damaged images as far as possible, and mark them, instead of refusing them": (
        "受损图片尽量读出并作标记，不拒绝"
    ),
    "exit with 1 if a folder of images holds files that are passed over": (
        "图片目录中有被跳过的文件时以 1 退出"
    ),
    "network that finds faces, an SCRFD": "检测人脸的网络，SCRFD",
    "network that finds landmarks, a PIPNet or PFLD": "检测关键点的网络，PIPNet 或 PFLD",
    "network that scores the quality of a face": "给人脸质量评分的网络",
    "network that recognises faces, a MagFace or another recogniser": (
        "识别人脸的网络，MagFace 或其他识别网络"
    ),
    "with --ledger: another build of the same network; may be repeated": (
        "与 --ledger 同用：同一网络的另一个编译产物；可重复"
    ),
    "lowest score of a face, from 0 to 1": "人脸的最低分数，0 到 1",
    "largest overlap (IoU) of two faces, from 0 to 1": "两张人脸的最大重叠（IoU），0 到 1",
    "a side of the network's input, or HEIGHTxWIDTH, in pixels": (
        "网络输入的边长，或 高x宽，单位像素"
    ),
    "runtime": "推理引擎",
    "device number": "设备编号",
    "execution provider of ONNX Runtime": "ONNX Runtime 的 execution provider",
    "arithmetic of OpenVINO; bf16 is faster on CPUs that have it": (
        "OpenVINO 的运算精度；在支持的 CPU 上 bf16 更快"
    ),
    "open an int8 build of full range on a CPU whose 8-bit sums saturate, at a loss": (
        "在 8 位累加会饱和的 CPU 上也打开满幅 int8 产物，精度有损失"
    ),
    "CPU cores to use (default: all usable ones)": "使用的 CPU 核数（默认：全部可用核）",
    "vdsp_params JSON of the pre-processing (default: that of the model)": (
        "预处理的 vdsp_params JSON（默认：模型自带）"
    ),
    "folder of images to measure on": "用来测量的图片目录",
    "a single image": "单张图片",
    "list of pairs of images": "图片对列表",
    "folder of the photos that pairs or tables name": "图片对或表格所指照片的目录",
    "folds of the accuracy": "计算准确率的折数",
    "predictions to evaluate": "要评测的预测结果",
    "folder of the ground truth": "标注目录",
    "embeddings.npz with names and vectors of the faces (default: computed from --images)": (
        "embeddings.npz，含人脸的名称与特征（默认：由 --images 计算）"
    ),
    "list of references; one face of each pair is in it (default: any two faces are a pair)": (
        "参考图片列表；每对中有一张在其中（默认：任意两张成对）"
    ),
    "list of copies, each with its original (default: no face is a copy)": (
        "副本列表，各附原图（默认：没有副本）"
    ),
    "card of a recogniser without a contract": "识别网络不含契约时的 card",
    "model that gives the quality: sdd_fiqa (score) or magface (norm of the embedding)": (
        "给出质量的模型：sdd_fiqa（分数）或 magface（特征的模长）"
    ),
    "profile of facezoo calibrate quality": "facezoo calibrate quality 的 profile",
    "smallest cosine of a face to a person of a gallery, -1 to 1": (
        "人脸与人员库中某人的最小余弦，-1 到 1"
    ),
    "people who are not enrolled, a folder each, or results of facezoo score": (
        "未登记的人，每人一个目录，或 facezoo score 的结果"
    ),
    "false positive identification rate: share of strangers' faces that may be given a name": (
        "错误识别率（FPIR）：陌生人脸中允许被认成某人的比例"
    ),
    "results of facezoo score or facezoo predict --parquet, with embeddings; the first folder of a "
    "photo's name is its person": (
        "facezoo score 或 facezoo predict --parquet 的结果，含特征；照片名的第一级目录是人"
    ),
    "beginning of one of the names that facezoo score status lists": (
        "facezoo score status 所列名称之一的开头"
    ),
    "face of a photo to use": "使用照片中的哪张人脸",
    "profile of facezoo calibrate similarity": "facezoo calibrate similarity 的 profile",
    "smallest cosine of two faces of one person, -1 to 1": "判为同一人的最小余弦，-1 到 1",
    "profile of facezoo calibrate appearance": "facezoo calibrate appearance 的 profile",
    "low_quality: name of a threshold in the profile": "low_quality：profile 中阈值的名字",
    "too_small: shorter side of the box in pixels": "too_small：框的短边，像素",
    "blurred: variance of the Laplacian of the aligned face": ("blurred：对齐人脸的拉普拉斯方差"),
    "turned: offset of the nose from the eyes' middle, in distances of the eyes": (
        "turned：鼻尖偏离两眼中点的距离，以两眼间距为单位"
    ),
    "cut_off: share of the aligned face outside the photo": "cut_off：对齐人脸在照片外的比例",
    "turn photos without a sure face by 90, 180 and 270 degrees too, which takes three more "
    "detections each, instead of refusing their faces as upside_down": (
        "没有可靠人脸的照片还转 90、180、270 度检测（每张多三次），而不是以 upside_down 拒绝其人脸"
    ),
    "embed refused faces, too": "被拒绝的人脸也提取特征",
    "false match rate": "误匹配率",
    "false non-match rate": "漏匹配率",
    "random seed": "随机种子",
    "number format of the build": "产物的数值类型",
    "allow running the Python code of a CustomFunc": "允许运行 CustomFunc 的 Python 代码",
    "file or folder of results": "结果文件或目录",
    "folder of something new: a recipe, a data set, a product": "新内容的目录：配方、数据集、产品",
    "remove what the earlier run wrote there and start again": (
        "删除上次运行写在那里的内容，重新开始"
    ),
    "write annotated images to the folder of results": "在结果目录中写出画好框的图片",
    "write the results as JSON; - is the standard output": "把结果写成 JSON；- 表示标准输出",
    "write a table as CSV": "写出 CSV 表格",
    "write an HTML report": "写出 HTML 报告",
    "plot the results": "画出结果",
    "measure, print and write the cost of each deviation": "测量、打印并写出每项偏差的代价",
    "write the numbers to this file of a recipe": "把数值写入配方的这个文件",
    "name of the data in the report": "报告中的数据名称",
    "write nothing, only check": "不写文件，只检查",
    "the repository's folder": "仓库目录",
    "print nothing but errors": "只打印错误",
    "also say which runtime is chosen and why; show tracebacks": (
        "同时说明选择了哪个引擎及原因；显示 traceback"
    ),
    "Parameters, M": "参数量, M",
    "MACs, G": "MACs, G",
    "MACs: multiply-accumulates of convolutions and linear layers, for one image.": (
        "MACs：单张图片的卷积与全连接乘加次数。"
    ),
    "Deviation": "偏差",
    "cost": "代价",
    "in all": "合计",
    "From the protocol to the vendor's runner, each on top of the one before:": (
        "从评测协议到厂商脚本，逐项叠加："
    ),
    "Each alone, against the protocol:": "各项单独与协议相比：",
    "Each alone, against the first row:": "各项单独与第一行相比：",
    "faces": "人脸数",
    "failure rate at 10 %": "10 % 处失败率",
    "CED area to 10 %": "至 10 % 的 CED 面积",
    "From the published accuracy to the default, each on top of the one before:": (
        "从官方公布的准确率到默认设置，逐项叠加："
    ),
    "Each alone, against the default; the columns with numbers are folds:": (
        "各项单独与默认设置相比；数字列为折："
    ),
    "Pairs that the best alignment decides wrongly; they are listed, not removed:": (
        "最佳对齐方式判错的图片对；只列出，不剔除："
    ),
    "Chosen on folds": "选取所用的折",
    "On the other folds": "其余各折",
    "on all": "全部",
    "Choice": "选项",
    "accuracy, %": "准确率, %",
    "wrong pairs": "判错对数",
    "default": "默认",
    "one person": "同一人",
    "two people": "不同人",
    "Photo": "照片",
    "says the list": "列表标注",
    "fold": "折",
    "cosine": "余弦",
    "largest face": "最大的人脸",
    "mirrored face added": "加上镜像人脸",
    "no second try with a border": "不加边框重试",
    "Pillow's resize": "Pillow 的缩放",
    "input 320x320": "输入 320x320",
    "for lack of time": "时间不够",
    "this processor has no bf16 arithmetic": "此处理器没有 bf16 运算",
    "Model": "模型",
    "What it does": "功能",
    "Task": "任务",
    "face_detection": "人脸检测",
    "face_alignment": "人脸关键点",
    "face_quality": "人脸质量",
    "face_recognition": "人脸识别",
    "Variants": "变体数",
    "Paper": "论文",
    "Licence of the code": "代码许可证",
    "Licence of the weights": "权重许可证",
    "Recipe": "配方",
    "Weights": "权重",
    "Export": "导出",
    "Measured": "测量对象",
    "Metric": "指标",
    "on a device": "设备",
    "no bf16": "无 bf16",
    "not measured": "未测量",
    "no weights or data available": "手头既没有权重也没有数据",
    "no device available": "没有设备",
    "in progress": "进行中",
    "fetched": "可自动下载",
    "by hand": "需手动下载",
    "yes": "是",
    "no": "否",
    "unknown": "未知",
    "Fact": "项目",
    "Value": "内容",
    "Source": "来源",
    "Input": "输入",
    "Outputs": "输出",
    "Pre-processing": "预处理",
    "Variant": "变体",
    "Files": "文件",
    "published": "官方公布",
    "Published numbers": "官方数值",
    "printed in": "出处：",
    "Name": "名称",
    "From": "获取方式",
    "Commercial use": "商用",
    "Licence": "许可证",
    "Holds": "内容",
    "Build": "构建",
    "Engine": "引擎",
    "images/s": "张/秒",
    "In brackets: difference from the published number.": "括号内：与官方数值之差。",
    "Work": "任务",
    "against": "对比",
    "ours": "我们",
    "theirs": "对方",
    "times": "倍数",
    "Share of the roofline:": "占上限的比例：",
    "Told of 64 cores with a quota of 2, against one that sees 2: times": (
        "被告知有 64 核而配额为 2 的进程，与只看到 2 核的进程相比：倍数"
    ),
    "time": "用时",
    "processor time": "处理器时间",
    "peak memory": "峰值内存",
    "choose": "选用",
    "cores": "核",
    "versions": "版本",
    "oldest": "最旧",
    "newest": "最新",
    "quick": "快速测试",
    "core": "核心测试",
    "tests": "测试",
    "passed": "通过",
    "failed": "失败",
    "skipped": "跳过",
    "date": "日期",
    "machine": "机器",
    "with": "安装工具",
    "installed in, s": "安装用时，秒",
    "MB with all packages": "全部软件包，MB",
    "main jobs, s": "主要任务，秒",
    "load": "负载",
    "load: processes waiting for a core; the last columns are processor time": (
        "负载：等待处理器的进程数；最后几列为处理器时间"
    ),
    "Same runtime, same precision:": "相同的运行时与精度：",
    "What choosing the backend buys:": "选择后端带来的提升：",
    "By amount of work:": "随工作量的变化：",
    "JPEGs to embeddings": "JPEG 到特征",
    "JPEGs to faces": "JPEG 到人脸",
    "WIDER FACE val to three APs, as a process": "WIDER FACE val 到三个 AP，作为一个进程",
    "aligned faces": "对齐的人脸",
    "one decoded image": "一张已解码的图片",
    "photos": "照片数",
    "workers": "线程数",
    "megapixels": "百万像素",
    "megapixels, --fast_decode": "百万像素，--fast_decode",
    "peak memory, MiB": "峰值内存, MiB",
    "void: other processes were busy": "无效：其他进程占用了处理器",
}
