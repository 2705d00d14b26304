"""Verification protocols in the layouts of their authors: what is read, and what is refused."""

import numpy as np
import pytest
from facezoo.datasets import protocols
from facezoo.datasets.protocols import Official, check_official, locate_photos, read_protocol
from facezoo.errors import DatasetError
from facezoo.image.files import write_image_rgb

PHOTO = np.zeros((4, 4, 3), np.uint8)


def write(path, lines):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def make_photos(root, names):
    for name in names:
        write_image_rgb(root / name, PHOTO)


LFW = [
    "2\t1",
    "Ann\t1\t4",
    "Ann\t2\tBob_Lee\t12",
    "Cid\t1\t2",
    "Bob_Lee\t3\tCid\t1",
]


def lfw(root):
    return write(root / "pairs.txt", LFW)


def cfp(root):
    """Two folds of one pair of each kind, of three frontal and two profile photos."""
    protocol = root / "Protocol"
    frontal = [f"{n} ../Data/Images/00{n}/frontal/01.jpg" for n in (1, 2, 3)]
    write(protocol / "Pair_list_F.txt", frontal)
    write(
        protocol / "Pair_list_P.txt",
        ["1 ../Data/Images/001/profile/01.jpg", "2 ../Data/Images/002/profile/03.jpg"],
    )
    for split, folds in (
        ("FP", ("1,1", "1,2", "2,2", "3,1")),
        ("FF", ("1,1", "1,2", "2,2", "3,1")),
    ):
        write(protocol / "Split" / split / "01" / "same.txt", folds[:1])
        write(protocol / "Split" / split / "01" / "diff.txt", folds[1:2])
        write(protocol / "Split" / split / "02" / "same.txt", folds[2:3])
        write(protocol / "Split" / split / "02" / "diff.txt", folds[3:])
    return root


def test_lfws_list(tmp_path):
    protocol = read_protocol(lfw(tmp_path))
    assert protocol.layout == "lfw"
    assert list(zip(protocol.first, protocol.second)) == [
        ("Ann/Ann_0001.jpg", "Ann/Ann_0004.jpg"),
        ("Ann/Ann_0002.jpg", "Bob_Lee/Bob_Lee_0012.jpg"),
        ("Cid/Cid_0001.jpg", "Cid/Cid_0002.jpg"),
        ("Bob_Lee/Bob_Lee_0003.jpg", "Cid/Cid_0001.jpg"),
    ]
    assert protocol.is_same.tolist() == [True, False, True, False]
    assert protocol.edges.tolist() == [0, 2, 4]
    assert len(protocol.photos) == 7
    assert [protocol.photos[row] for row in protocol.rows()[3]] == [
        "Bob_Lee/Bob_Lee_0003.jpg",
        "Cid/Cid_0001.jpg",
    ]
    assert str(protocol) == "lfw: 2 genuine and 2 impostor pairs of 7 photos in 2 folds"


def test_a_list_of_one_fold_gets_ten_runs_of_each_kind(tmp_path):
    genuine = [f"P{n}\t1\t2" for n in range(20)]
    impostors = [f"P{n}\t1\tQ{n}\t1" for n in range(20)]
    protocol = read_protocol(write(tmp_path / "pairsDevTest.txt", ["20", *genuine, *impostors]))
    assert protocol.edges.tolist() == list(range(0, 41, 4))
    assert protocol.is_same.reshape(10, 4).tolist() == [[True, True, False, False]] * 10
    assert protocol.first[:4] == ("P0/P0_0001.jpg", "P1/P1_0001.jpg") * 2


@pytest.mark.parametrize(
    ("line", "new", "message"),
    [
        (0, "2\t2", "line 3 is a pair of two people; fold 1 must have 2 pairs of one person"),
        (0, "3\t1", "4 pairs; its first line says 3 folds of 1 pairs of each kind, 6"),
        (2, "Ann\t2\t3", "line 3 is a pair of one person; fold 1 must have 1 pairs"),
        (3, "Cid\tone\t2", "line 4 is .*expected person number number"),
        (3, "Cid", "line 4 is 'Cid'"),
    ],
)
def test_a_wrong_line_of_lfws_list_is_named(tmp_path, line, new, message):
    path = write(tmp_path / "pairs.txt", [*LFW[:line], new, *LFW[line + 1 :]])
    with pytest.raises(DatasetError, match=message) as caught:
        read_protocol(path)
    assert "pairs.txt" in str(caught.value)


@pytest.mark.parametrize("place", ["", "Protocol", "Protocol/Split/FP"])
def test_cfps_folder(tmp_path, place):
    protocol = read_protocol(cfp(tmp_path / "cfp") / place)
    assert protocol.layout == "cfp"
    assert protocol.first[0] == "Data/Images/001/frontal/01.jpg"
    assert protocol.second[:2] == (
        "Data/Images/001/profile/01.jpg",
        "Data/Images/002/profile/03.jpg",
    )
    assert protocol.is_same.tolist() == [True, False, True, False]
    assert protocol.edges.tolist() == [0, 2, 4]


def test_cfps_frontal_split(tmp_path):
    protocol = read_protocol(cfp(tmp_path) / "Protocol" / "Split" / "FF")
    assert protocol.second[1] == "Data/Images/002/frontal/01.jpg"


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("Split/FP/02/diff.txt", "3\n", "diff.txt': line 1 is '3'; expected two numbers"),
        ("Split/FP/02/diff.txt", "9,1\n", "line 1 is '9,1'; expected numbers of Pair_list_F"),
        ("Pair_list_P.txt", "1 a.jpg\n1 b.jpg\n", "line 2 is '1 b.jpg'; expected a new number"),
        ("Pair_list_F.txt", "", "Pair_list_F.txt': is empty"),
    ],
)
def test_a_wrong_line_of_cfp_is_named(tmp_path, name, text, message):
    (cfp(tmp_path) / "Protocol" / name).write_text(text)
    with pytest.raises(DatasetError, match=message):
        read_protocol(tmp_path)


def test_a_folder_without_a_protocol_is_refused(tmp_path):
    with pytest.raises(DatasetError, match="is not a protocol: expected CFP's folder"):
        read_protocol(tmp_path)


def test_agedbs_list(tmp_path):
    same = [f"{n}_Maria_{n}_f.jpg {n + 1}_Maria_{n + 30}_f.jpg 1" for n in range(20, 30)]
    two = [f"{n}_Maria_{n}_f.jpg {n}_John_{n + 30}_m.jpg -1" for n in range(20, 30)]
    lines = [line for pair in zip(same, two) for line in pair]
    protocol = read_protocol(write(tmp_path / "agedb_30_pair.txt", lines))
    assert protocol.layout == "agedb"
    assert protocol.is_same.tolist() == [True, False] * 10
    assert protocol.edges.tolist() == list(range(0, 21, 2))


def test_calfws_list_has_the_folds_of_genuine_pairs_only(tmp_path):
    def pairs(tokens, start):
        for number, token in enumerate(tokens, start):
            yield f"P_{number:04d}.jpg {token}"
            yield f"Q_{number:04d}.jpg {token}"

    lines = [*pairs((1, 1, 2, 2, 3, 3), 1), *pairs([0] * 6, 11)]
    protocol = read_protocol(write(tmp_path / "pairs_CALFW.txt", lines))
    assert protocol.layout == "calfw"
    assert protocol.edges.tolist() == [0, 4, 8, 12]
    numbers = [int(name[2:6]) for name in protocol.first]
    assert numbers == [1, 2, 11, 12, 3, 4, 13, 14, 5, 6, 15, 16]
    assert protocol.is_same.tolist() == [True, True, False, False] * 3
    lines[1] = lines[1].replace(" 1", " 2")
    with pytest.raises(DatasetError, match=r"line 2 is 'Q_0001\.jpg 2'; expected 1, as in"):
        read_protocol(write(tmp_path / "wrong.txt", lines))
    with pytest.raises(DatasetError, match="23 lines; expected two lines a pair"):
        read_protocol(write(tmp_path / "odd.txt", lines[:-1]))


def test_the_authors_pair_list_with_and_without_names(tmp_path):
    named = [f"imgs/{2 * n}.jpg imgs/{2 * n + 1}.jpg {n % 2}" for n in range(20)]
    protocol = read_protocol(write(tmp_path / "named" / "pair.list", named))
    assert protocol.layout == "pair.list"
    assert (protocol.first[1], protocol.second[1]) == ("imgs/2.jpg", "imgs/3.jpg")
    assert protocol.is_same.tolist() == [False, True] * 10
    assert protocol.edges.tolist() == list(range(0, 21, 2))
    write(tmp_path / "labels" / "img.list", [f"imgs/{n}.jpg" for n in range(40)])
    labels = write(tmp_path / "labels" / "pair.list", [f"{n} {n % 2}" for n in range(20)])
    other = read_protocol(labels)
    assert (other.first, other.second) == (protocol.first, protocol.second)
    (tmp_path / "labels" / "img.list").unlink()
    with pytest.raises(DatasetError, match=r"0 photos in .*img\.list' for 20 pairs"):
        read_protocol(labels)


def test_a_few_pairs_are_as_many_folds(tmp_path):
    lines = [f"{n}a.png {n}b.png {n % 2}" for n in range(6)]
    assert read_protocol(write(tmp_path / "six", lines)).edges.tolist() == [0, 1, 2, 3, 4, 5, 6]


def test_a_table_with_and_without_folds(tmp_path):
    rows = ["a.jpg,b.jpg,1,2", '"c, d.jpg",a.jpg,0,1', "b.jpg,e.jpg,true,1", "a.jpg,e.jpg,0,2"]
    protocol = read_protocol(write(tmp_path / "p.csv", ["first,second,same,fold", *rows]))
    assert protocol.layout == "csv"
    assert protocol.first == ("c, d.jpg", "b.jpg", "a.jpg", "a.jpg")
    assert protocol.is_same.tolist() == [False, True, True, False]
    assert protocol.edges.tolist() == [0, 2, 4]
    rows = [row.rpartition(",")[0] for row in rows]
    whole = read_protocol(write(tmp_path / "q.csv", ["first,second,same", *rows]))
    assert whole.edges.tolist() == [0, 1, 2, 3, 4]


def test_other_names_of_the_columns(tmp_path):
    rows = ["label,Image1,image2", "1,a.jpg,b.jpg", "0,a.jpg,c.jpg"]
    protocol = read_protocol(write(tmp_path / "p.csv", rows))
    assert (protocol.first, protocol.second) == (("a.jpg", "a.jpg"), ("b.jpg", "c.jpg"))
    assert protocol.is_same.tolist() == [True, False]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["one,two,same", "a,b,1"], "there is no column 'first'"),
        (["first,second,same", "a.jpg,b.jpg,yes"], "line 2 is 'a.jpg,b.jpg,yes'; expected photo"),
        (["first,second,same", "a.jpg,b.jpg"], "line 2"),
        (["first,second,same,fold", "a.jpg,b.jpg,1,x"], "line 2"),
        (["first,second,same"], "has no pairs"),
    ],
)
def test_a_wrong_table_is_refused(tmp_path, lines, message):
    with pytest.raises(DatasetError, match=message):
        read_protocol(write(tmp_path / "p.csv", lines))


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["a.jpg b.jpg same"], "line 1 is 'a.jpg b.jpg same'; expected two photos and 1 or 0"),
        (["a.jpg b.jpg c.jpg 1"], "line 1"),
        (["a.jpg b.jpg 1", "a.jpg b.jpg 2"], "line 2"),
        (["a.jpg b.jpg 1"], "pairs.txt': 1 pairs in one fold"),
        (["a.jpg\t\t1", "a.jpg\tb.jpg\t0"], "pairs.txt': a pair names no photo: 'a.jpg', ''"),
        ([], "is empty"),
    ],
)
def test_a_list_of_no_layout_is_refused(tmp_path, lines, message):
    with pytest.raises(DatasetError, match=message):
        read_protocol(write(tmp_path / "pairs.txt", lines))


def test_photos_are_found_as_listed_flat_and_with_another_suffix(tmp_path):
    protocol = read_protocol(lfw(tmp_path))
    for root, change in (
        (tmp_path / "listed", lambda name: name),
        (tmp_path / "flat", lambda name: name.rpartition("/")[2]),
        (tmp_path / "aligned", lambda name: name.replace(".jpg", ".png")),
    ):
        make_photos(root, map(change, protocol.photos))
        paths = locate_photos(protocol, root)
        assert [path.relative_to(root).as_posix() for path in paths] == [
            change(name) for name in protocol.photos
        ]
    (tmp_path / "flat" / "Cid_0002.jpg").unlink()
    with pytest.raises(DatasetError, match=r"1 of the 7 photos .*the first is .*Cid_0002.jpg"):
        locate_photos(protocol, tmp_path / "flat")
    with pytest.raises(DatasetError, match="is not a folder"):
        locate_photos(protocol, tmp_path / "none")


def test_photos_of_two_people_are_never_one_file(tmp_path):
    protocol = read_protocol(cfp(tmp_path / "cfp"))
    make_photos(tmp_path / "cfp", protocol.photos)
    images = tmp_path / "cfp" / "Data" / "Images"
    assert locate_photos(protocol, images) == locate_photos(protocol, tmp_path / "cfp")
    make_photos(images / "001", ["profile/03.jpg"])
    with pytest.raises(DatasetError, match="are only 3 files"):
        locate_photos(protocol, images / "001")


def test_a_list_cannot_lead_outside_the_photos(tmp_path):
    make_photos(tmp_path, ["secret.jpg", "photos/a.jpg"])
    lines = ["a.jpg ../secret.jpg 1", "a.jpg a.jpg 0"]
    protocol = read_protocol(write(tmp_path / "pairs.txt", lines))
    with pytest.raises(DatasetError, match="leads outside"):
        locate_photos(protocol, tmp_path / "photos")


@pytest.mark.parametrize(("name", "make"), [("lfw", lfw), ("cfp", cfp)])
def test_layout_and_counts_are_checked(tmp_path, monkeypatch, run_here, name, make):
    pairs = make(tmp_path / name)
    protocol = read_protocol(pairs)
    make_photos(tmp_path / name, protocol.photos)
    photos = tmp_path / name
    flags = ("prepare", name, "--photos", photos, *(("--pairs", pairs) if name == "lfw" else ()))
    code, _, error = run_here(*flags)
    assert code == 2
    assert f"has 4 pairs; {name} has" in error
    people = {"lfw": 3, "cfp": 3}[name]
    size = Official(pairs=4, folds=2, photos=len(protocol.photos), people=people)
    monkeypatch.setitem(protocols.OFFICIAL, name, size)
    code, said, _ = run_here(*flags)
    assert code == 0
    assert said.startswith(f"complete: {name}: 2 genuine and 2 impostor pairs")
    make_photos(photos, ["Data/Images/004/frontal/01.jpg" if name == "cfp" else "Dan/Dan_0001.jpg"])
    with pytest.raises(DatasetError, match="photos; "):
        check_official(name, pairs, photos)


def test_another_layout_is_not_that_data_set(tmp_path, run_here):
    pairs = lfw(tmp_path)
    code, _, error = run_here("prepare", "agedb", "--photos", tmp_path, "--pairs", pairs)
    assert code == 2
    assert "has the layout lfw; expected agedb" in error
    assert run_here("prepare", "agedb", "--photos", tmp_path)[0] == 2
