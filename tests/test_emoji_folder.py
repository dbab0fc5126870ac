"""The command that makes the colour recipe's folder."""

import json

import emoji_folder
from PIL import Image


def test_emoji_that_belong_together_are_on_one_side(tmp_path):
    entries: list[dict[str, object]] = [
        {
            "unified": f"{n:X}",
            "category": "People & Body",
            "image": f"{n:x}.png",
            "skin_variations": {"1F3FB": {"image": f"{n:x}-1f3fb.png"}},
        }
        for n in range(60)
    ]
    entries[3]["obsoleted_by"] = "4"
    packages = {vendor: tmp_path / vendor for vendor in emoji_folder.VENDORS}
    for vendor, package in packages.items():
        (package / "img" / vendor / "64").mkdir(parents=True)
        (package / "emoji.json").write_text(json.dumps(entries))
        for n in range(60):
            for shift, image in enumerate((f"{n:x}.png", f"{n:x}-1f3fb.png")):
                colour = (10 if n == 9 else n, shift, len(vendor), 128)  # number 9 is drawn like number 10
                Image.new("RGBA", (4, 4), colour).save(package / "img" / vendor / "64" / image)
    emoji_folder.write_emoji_folder(packages, tmp_path / "emoji")
    sides = [
        {file.name for file in (tmp_path / "emoji" / split).glob("people-body/*")} for split in ("train", "evaluation")
    ]
    bases = [{int(name.split("-")[1].removesuffix(".png"), 16) for name in side} for side in sides]
    assert len(sides[0]) + len(sides[1]) == 4 * 60
    assert bases[0] | bases[1] == set(range(60))
    assert not bases[0] & bases[1]
    assert bases[1]
    for pair in ({3, 4}, {9, 10}):
        assert any(pair <= side for side in bases)
    emoji_folder.write_emoji_folder(packages, tmp_path / "third", held_out=0.333)
    smaller, larger = (
        {f.relative_to(f.parents[1]) for f in (tmp_path / name / "evaluation").glob("*/*")}
        for name in ("emoji", "third")
    )
    assert smaller < larger
    assert 0.2 < len(larger) / (4 * 60) < 0.5
