"""Lists of pictures: what is read, and that what is wrong is said before any question."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from whyfake.errors import ManifestError
from whyfake.evaluate.layouts import celeb_df, dfdc, faceforensics, sampled
from whyfake.evaluate.manifest import Manifest, fitted, read_manifest, refuse

FIVE = ("Real", "NeuralTextures", "Face2Face", "Deepfakes", "FaceSwap")


def touch(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def manifest(folder: Path, text: str) -> Manifest:
    (folder / "m.csv").write_text(text)
    return read_manifest(folder / "m.csv")


def test_a_csv_with_everything(tmp_path: Path) -> None:
    touch(tmp_path, "a.png", "sub/b.png", "mask.png")
    numbers = " ".join(str(n + 0.5) for n in range(10))
    found = manifest(
        tmp_path,
        f"Path, label ,group,clip,mask,landmarks\na.png,fake,g1,c1,mask.png,{numbers}\n"
        "sub/b.png,REAL,g2,,,\n",
    )
    assert found.problems == ()
    first, second = found.entries
    assert first.path == str(tmp_path / "a.png")
    assert (first.label, first.group, first.clip) == ("fake", "g1", "c1")
    assert first.mask == str(tmp_path / "mask.png")
    assert first.landmarks == ((0.5, 1.5), (2.5, 3.5), (4.5, 5.5), (6.5, 7.5), (8.5, 9.5))
    assert (second.group, second.clip, second.mask, second.landmarks) == (
        "g2",
        str(tmp_path / "sub/b.png"),
        None,
        None,
    )
    assert [e.label for e in fitted(found, ("real", "fake"), ("real",)).entries] == ["fake", "real"]


def test_labels_are_the_detectors_own(tmp_path: Path) -> None:
    touch(tmp_path, "a", "b", "c", "d")
    found = manifest(tmp_path, "path,class\na,faceswap\nb,Real\nc,fake\nd,Deepfake\n")
    five = fitted(found, FIVE, ("Real",))
    assert [e.label for e in five.entries] == ["FaceSwap", "real", "fake"]
    assert five.problems[0].endswith(
        "unknown label 'Deepfake': did you mean 'Deepfakes'? "
        "Known: real, fake, Real, NeuralTextures, Face2Face, Deepfakes, FaceSwap"
    )
    assert five.problems[1] == "group 'Deepfake' is empty: none of its pictures can be used"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "must name the columns path and label .* got nothing"),
        ("picture,label\na,fake\n", "must name the columns path and label"),
        ("path,label,grup\na,fake,x\n", "unknown column 'grup': did you mean 'group'"),
    ],
)
def test_a_file_that_is_no_manifest(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ManifestError, match=message):
        manifest(tmp_path, text)


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="No such file"):
        read_manifest(tmp_path / "none.csv")
    (tmp_path / "m.csv").write_bytes(b"path,label\n\xff\xfe,fake\n")
    with pytest.raises(ManifestError, match="not a CSV file in UTF-8"):
        read_manifest(tmp_path / "m.csv")


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ("none.png,fake,g,,", "none.png: there is no such file"),
        (",fake,g,,", "line 3: the path is empty"),
        ("b.png,,g,,", "line 3: b.png: the label is empty"),
        ("b.png,fake,,,", "line 3: b.png: the group is empty"),
        ("b.png,fake,g", "line 3: has more or fewer cells than there are columns"),
        ("b.png,fake,g,,,x", "line 3: has more or fewer cells than there are columns"),
        ("b.png,fake,g,nomask.png,", "b.png: its mask"),
        ("b.png,fake,g,,1 2 3", "line 3: b.png: landmarks must be ten numbers"),
        ("b.png,fake,g,,1 2 3 4 5 6 7 8 9 nan", "landmarks must be ten numbers"),
        ("b.png,maybe,g,,", "unknown label 'maybe'"),
        ("a.png,fake,g,,", "a.png: named 2 times"),
    ],
)
def test_what_is_wrong_with_a_picture(tmp_path: Path, row: str, problem: str) -> None:
    touch(tmp_path, "a.png", "b.png", "c.png")
    text = f"path,label,group,mask,landmarks\na.png,fake,g,,\n{row}\nc.png,real,h,,\n"
    found = fitted(manifest(tmp_path, text), ("real", "fake"), ("real",))
    assert len(found.problems) == 1 + ("named" in problem), found.problems
    assert problem in found.problems[0]
    with pytest.raises(ManifestError, match="--skip-bad") as raised:
        refuse(found, skip_bad=False)
    assert problem in str(raised.value)
    refuse(found, skip_bad=True)
    assert len(found.entries) == (1 if "named" in problem else 2)


def test_nothing_left_is_an_error_with_skip_bad_too(tmp_path: Path) -> None:
    bad = manifest(tmp_path, "path,label\nnone.png,fake\n")
    with pytest.raises(ManifestError, match="no picture is left"):
        refuse(bad, skip_bad=True)
    with pytest.raises(ManifestError, match="is empty"):
        refuse(manifest(tmp_path, "path,label\n"), skip_bad=True)


def test_many_problems_are_not_all_listed(tmp_path: Path) -> None:
    rows = "".join(f"{n}.png,fake\n" for n in range(30))
    with pytest.raises(ManifestError, match="31 problems") as raised:
        refuse(manifest(tmp_path, "path,label\n" + rows), skip_bad=False)
    assert "… and 19 more" in str(raised.value)


@pytest.mark.parametrize(
    ("count", "chosen"),
    [
        (7, list(range(7))),
        (10, list(range(10))),
        (25, [0, 2, 4, 6, 8, 10, 12, 14, 16, 18]),  # round(2.5) is 2
        (28, [0, 3, 6, 9, 12, 15, 18, 21, 24, 27]),
        (16, [0, 1, 2, 3, 4, 6, 8, 10, 12, 14]),  # step 2 gives eight: the first two's neighbours
    ],
)
def test_frames_are_sampled_as_in_the_paper(count: int, chosen: list[int]) -> None:
    assert sampled(list(range(count))) == chosen


def test_faceforensics_layout(tmp_path: Path) -> None:
    for kind, video in (("Deepfakes", "000_003.mp4"), ("FaceSwap", "001_870")):
        base = f"manipulated_sequences/{kind}/c23/videos/{video}"
        touch(tmp_path, *(f"{base}/{n:05d}_0.png" for n in range(0, 600, 23)))
    touch(tmp_path, "original_sequences/youtube/c23/frames/000/000.png")
    touch(tmp_path, "manipulated_sequences/FaceShifter/c23/videos/000_003/0.png")  # not the paper's
    found = faceforensics(tmp_path)
    assert found.problems == ()
    assert [e.label for e in found.entries] == ["real"] + ["Deepfakes"] * 10 + ["FaceSwap"] * 10
    assert len({e.clip for e in found.entries}) == 3
    names = [Path(e.path).name for e in found.entries[1:4]]
    assert names == [
        "00000_0.png",
        "00023_0.png",
        "00069_0.png",
    ]  # 27: step 3, a neighbour
    with pytest.raises(ManifestError, match="no folders of face crops there"):
        faceforensics(tmp_path, compression="c40")
    two = fitted(found, ("real", "fake"), ("real",))
    assert "unknown label 'Deepfakes'" in two.problems[0]


def test_the_papers_list(tmp_path: Path) -> None:
    base = "manipulated_sequences/NeuralTextures/c23/videos/000_003.mp4"
    names = [f"{base}/{n:05d}_0.png" for n in (0, 23, 46)]
    touch(tmp_path, *names[:2], "original_sequences/youtube/c23/videos/000.mp4/00000_0.png")
    rows = [f"{name} 1 1" for name in names]
    rows.append("original_sequences/youtube/c23/videos/000.mp4/00000_0.png 0 0")
    listing = tmp_path / "ff_test.csv"
    listing.write_text("relative_path bin_label mc_label\n" + "\n".join(rows) + "\n")
    found = faceforensics(tmp_path, listed=listing)
    assert [e.label for e in found.entries] == ["NeuralTextures", "NeuralTextures", "real"]
    assert len(found.problems) == 1
    assert "00046_0.png: there is no such file" in found.problems[0]
    listing.write_text("relative_path bin_label mc_label\na.png 1 7\n")
    with pytest.raises(ManifestError, match="line 2: wanted a path and two labels"):
        faceforensics(tmp_path, listed=listing)
    listing.write_text("path,label\n")
    with pytest.raises(ManifestError, match="first line must be 'relative_path bin_label"):
        faceforensics(tmp_path, listed=listing)


def test_dfdc_layout(tmp_path: Path) -> None:
    part = tmp_path / "dfdc_train_part_0"
    touch(part, "aa/0.png", "aa/1.png", "bb.mp4/0.png")
    facts = {"aa.mp4": {"label": "FAKE", "original": "bb.mp4"}, "bb.mp4": {"label": "REAL"}}
    (part / "metadata.json").write_text(json.dumps(facts | {"cc.mp4": {"label": "FAKE"}}))
    found = dfdc(tmp_path)
    assert [(Path(e.path).name, e.label) for e in found.entries] == [
        ("0.png", "fake"),
        ("1.png", "fake"),
        ("0.png", "real"),
    ]
    assert len(found.problems) == 1
    assert "cc.mp4: no folder of its face crops" in found.problems[0]
    (part / "metadata.json").write_text(json.dumps({"aa.mp4": {"label": "?"}}))
    with pytest.raises(ManifestError, match=r"aa\.mp4 has no label FAKE or REAL"):
        dfdc(tmp_path)
    (part / "metadata.json").write_text("[")
    with pytest.raises(ManifestError, match="cannot be read"):
        dfdc(tmp_path)


def test_celeb_df_layout(tmp_path: Path) -> None:
    touch(tmp_path, "Celeb-real/id0_0000/0.png", "Celeb-synthesis/id0_id1_0000/0.png")
    touch(tmp_path, "YouTube-real/frames/00170/0.png")
    found = celeb_df(tmp_path)
    assert [e.label for e in found.entries] == ["real", "real", "fake"]
    (tmp_path / "List_of_testing_videos.txt").write_text(
        "1 YouTube-real/00170.mp4\n0 Celeb-synthesis/id0_id1_0000.mp4\n0 Celeb-synthesis/x.mp4\n"
    )
    found = celeb_df(tmp_path)
    assert [e.label for e in found.entries] == ["real", "fake"]
    assert "x.mp4: no folder of its face crops" in found.problems[0]


@pytest.mark.parametrize("layout", [faceforensics, dfdc, celeb_df])
def test_a_folder_that_is_something_else(tmp_path: Path, layout: object) -> None:
    with pytest.raises(ManifestError, match="there is no such folder"):
        layout(tmp_path / "none")  # type: ignore[operator]
    with pytest.raises(ManifestError, match="of face crops"):
        layout(tmp_path)  # type: ignore[operator]


def test_an_empty_video_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "Celeb-real" / "a").mkdir(parents=True)
    touch(tmp_path, "Celeb-real/b/0.png")
    assert "a: no pictures in it" in celeb_df(tmp_path).problems[0]
