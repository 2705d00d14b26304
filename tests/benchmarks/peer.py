"""One side of bench_peers.py or bench_chain.py: loads its networks once, does what it is told.

Reads one JSON command a line, answers with one. Runs in any environment that has the side's own
packages; everything of the project is imported by the project's own side only.
"""

import argparse
import json
import statistics
import sys
import time


def fix_threads(threads):
    """Give every session that many threads, whatever the package would have taken."""
    import onnxruntime

    original = onnxruntime.InferenceSession

    class Session(original):
        def __init__(self, path, sess_options=None, **options):
            sess_options = sess_options or onnxruntime.SessionOptions()
            sess_options.intra_op_num_threads = threads
            super().__init__(path, sess_options=sess_options, **options)

    onnxruntime.InferenceSession = Session


class Facezoo:
    """The project, on one of its runtimes."""

    def __init__(self, args):
        import facezoo
        from facezoo.models.scrfd.decode import Profile

        profile = Profile(args.score, args.nms)
        self.model = facezoo.load(
            args.model,
            kind=facezoo.FaceDetector,
            runtime=facezoo.RuntimeOptions(
                engine=args.engine, threads=args.threads, precision=args.precision
            ),
            profile=profile,
            fast_decode=args.fast_decode,
            size="auto" if args.auto_size else None,
        )
        self.whole = self.model
        if args.embedder:
            self.whole = facezoo.Predictor(self.model, embedder=args.embedder)

    def folder(self, paths):
        return sum(len(faces) for faces in self.whole.stream(paths))

    def stages(self, paths):
        """Do the folder's work on one core, without threads; the sum of its stages."""
        import cv2
        from facezoo.image.files import read_image_rgb
        from facezoo.models.scrfd.decode import decode

        threads = cv2.getNumThreads()
        cv2.setNumThreads(1)
        backend, model = self.model.backend, self.model
        sums = {"read": 0.0, "prepare": 0.0, "network": 0.0, "decode": 0.0}
        for path in paths:
            times = [time.perf_counter()]
            image = read_image_rgb(path)
            times.append(time.perf_counter())
            prepared = backend.prepare([image])
            times.append(time.perf_counter())
            raw = backend.run_tensor(*prepared, many=True)
            times.append(time.perf_counter())
            decode(raw, profile=model.profile, **model.contract.decode)
            times.append(time.perf_counter())
            for stage, start, end in zip(sums, times, times[1:]):
                sums[stage] += end - start
        cv2.setNumThreads(threads)
        return sums


class InsightFace:
    """PyPI's insightface, its own loop: read, detect."""

    def __init__(self, args):
        fix_threads(args.threads)
        from insightface.model_zoo import get_model

        self.model = get_model(args.model, providers=["CPUExecutionProvider"])
        self.model.prepare(-1, input_size=(640, 640), det_thresh=args.score, nms_thresh=args.nms)
        self.model.nms_thresh = args.nms
        self.embedder = None
        if args.embedder:
            self.embedder = get_model(args.embedder, providers=["CPUExecutionProvider"])

    def folder(self, paths):
        import cv2
        from insightface.app.common import Face

        count = 0
        for path in paths:
            image = cv2.imread(path)
            boxes, points = self.model.detect(image)
            for five in points if self.embedder else ():
                self.embedder.get(image, Face(kps=five))
            count += len(boxes)
        return count


class UniFace:
    """PyPI's uniface, its own loop: read, detect."""

    def __init__(self, args):
        fix_threads(args.threads)
        from uniface.constants import SCRFDWeights
        from uniface.detection import scrfd

        # The same file for all, in place of the package's download.
        scrfd.verify_model_weights = lambda name: args.model
        # The package's own files have no batch axis in their outputs; this one has.
        whole = scrfd.SCRFD.inference
        scrfd.SCRFD.inference = lambda self, tensor: [out[0] for out in whole(self, tensor)]
        self.model = scrfd.SCRFD(
            model_name=SCRFDWeights.SCRFD_500M_KPS,
            confidence_threshold=args.score,
            nms_threshold=args.nms,
            providers=["CPUExecutionProvider"],
        )
        self.embedder = None
        if args.embedder:
            from uniface.recognition import arcface

            arcface.verify_model_weights = lambda name: args.embedder
            self.embedder = arcface.ArcFace(providers=["CPUExecutionProvider"])

    def folder(self, paths):
        import cv2

        count = 0
        for path in paths:
            image = cv2.imread(path)
            faces = self.model.detect(image)
            for face in faces if self.embedder else ():
                self.embedder.get_normalized_embedding(image, face.landmarks)
            count += len(faces)
        return count


SIDES = {"facezoo": Facezoo, "insightface": InsightFace, "uniface": UniFace}


def time_session(path, threads, runs):
    """Return the median of session.run on a ready tensor, in ms: the machine's own speed."""
    import numpy as np
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(
        path, sess_options=options, providers=["CPUExecutionProvider"]
    )
    name = session.get_inputs()[0].name
    tensor = np.random.default_rng(0).uniform(-1, 1, (1, 3, 640, 640)).astype(np.float32)
    times = []
    for _ in range(runs + 5):
        started = time.perf_counter()
        session.run(None, {name: tensor})
        times.append((time.perf_counter() - started) * 1e3)
    return statistics.median(times[5:])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("side", choices=SIDES)
    parser.add_argument("--model", required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--score", type=float, default=0.5)
    parser.add_argument("--nms", type=float, default=0.4)
    parser.add_argument("--engine", default="ort")
    parser.add_argument("--precision", default="f32")
    parser.add_argument("--fast-decode", action="store_true")
    parser.add_argument("--auto-size", action="store_true")
    parser.add_argument("--embedder", default="", help="also embed every face")
    args = parser.parse_args()
    # What packages print must not be taken for answers.
    answers, sys.stdout = sys.stdout, sys.stderr
    side = SIDES[args.side](args)
    print("{}", file=answers, flush=True)
    for line in sys.stdin:
        command = json.loads(line)
        started = time.perf_counter()
        if "session" in command:
            answer = {"ms": time_session(command["session"], args.threads, command["runs"])}
        elif "stages" in command:
            answer = {"stages": side.stages(command["stages"])}
        else:
            answer = {"faces": side.folder(command["folder"])}
        answer["seconds"] = time.perf_counter() - started
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
