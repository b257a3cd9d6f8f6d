#!/usr/bin/env python3
"""Compares Omma's embeddings with those of a reference in Python: Pillow, numpy and onnxruntime on the same model.

    python3 -m venv venv && venv/bin/pip install pillow numpy onnxruntime==1.24.4
    cargo build -p omma-shard --example embed
    venv/bin/python integration-tests/python/parity.py --data ../shared/data --embed target/debug/examples/embed

The reference does the steps of Hugging Face's image processors one after the other: EXIF orientation, RGB, resize,
centre crop, rescale, normalise. Prints percentiles of the cosine between the two, by folder, and the worst pictures;
fails if the 1st percentile of all is below 0.999.

reference() and load_model() may be imported by other tests.
"""

import argparse
import collections
import json
import pathlib
import subprocess
import sys
import tempfile
import warnings

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

HERE = pathlib.Path(__file__).resolve().parent
MODEL = HERE.parent.parent / "shard/models/efficientnet-lite0"
FOLDERS = ("photos", "iconic", "neardup/queries", "malformed")
SUFFIXES = {".jpg", ".jpeg", ".png", ".gif", ".webp", ".bmp", ".tif", ".tiff"}
# Above this many pixels the resized picture is not built whole: see resized_and_cropped.
WHOLE_PIXELS = 16_000_000
GOAL = 0.999

Image.MAX_IMAGE_PIXELS = 64_000_000
warnings.simplefilter("error", Image.DecompressionBombWarning)


def load_model(folder=MODEL):
    """A session and its preprocessing."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"), options, providers=["CPUExecutionProvider"])
    return session, json.loads((folder / "preprocessor_config.json").read_text())


def to_rgb(image):
    """As Pillow's convert("RGB"), but that 16-bit gray is scaled to 8 bits, where Pillow cuts it off at 255."""
    if image.mode.startswith("I;16") or image.mode == "I":
        image = Image.fromarray(np.round(np.asarray(image).astype(np.float64) / 257).astype(np.uint8))
    return image.convert("RGB")


def resized_and_cropped(image, config):
    width, height = image.size
    short = config["size"]["shortest_edge"]
    crop = config["crop_size"]["width"]
    if width <= height:
        size = (short, int(short * height / width))
    else:
        size = (int(short * width / height), short)
    left, top = (size[0] - crop) // 2, (size[1] - crop) // 2
    if size[0] * size[1] <= WHOLE_PIXELS:
        return image.resize(size, config["resample"]).crop((left, top, left + crop, top + crop))
    # The same pixels, without those that would be thrown away: a picture of 1 x 20000 becomes 256 x 5120000.
    scale = (width / size[0], height / size[1])
    box = (left * scale[0], top * scale[1], (left + crop) * scale[0], (top + crop) * scale[1])
    return image.resize((crop, crop), config["resample"], box=box)


def pixels(image, config):
    """Of an open picture: 1 x 3 x height x width numbers."""
    image = to_rgb(ImageOps.exif_transpose(image))
    numbers = np.asarray(resized_and_cropped(image, config), np.float32)
    if config["do_rescale"]:
        numbers = numbers * np.float32(config["rescale_factor"])
    numbers = (numbers - np.float32(config["image_mean"])) / np.float32(config["image_std"])
    return numbers.transpose(2, 0, 1)[None]


def reference(path, model):
    """The unit-length embedding of the picture at `path`."""
    session, config = model
    with Image.open(path) as image:
        vector = session.run(None, {session.get_inputs()[0].name: pixels(image, config)})[0][0].astype(np.float64)
    return vector / np.linalg.norm(vector)


def pictures(data):
    return sorted(p for folder in FOLDERS for p in (data / folder).rglob("*") if p.suffix.lower() in SUFFIXES)


def ours(embed, paths):
    """Path to embedding, path to error, by the Rust example."""
    with tempfile.TemporaryDirectory() as folder:
        out, listing = pathlib.Path(folder) / "out.npy", pathlib.Path(folder) / "list"
        listing.write_text("\n".join(map(str, paths)))
        subprocess.run([embed, out, "--list", listing], check=True)
        names = pathlib.Path(f"{out}.names").read_text().splitlines()
        errors = pathlib.Path(f"{out}.errors").read_text().splitlines()
        return dict(zip(names, np.load(out))), dict(line.split("\t", 1) for line in errors)


def percentiles(cosines):
    points = (0, 1, 5, 50)
    return "  ".join(f"p{p} {v:.5f}" for p, v in zip(points, np.percentile(cosines, points)))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=pathlib.Path, required=True, help="folder with photos/, iconic/ ...")
    parser.add_argument("--embed", required=True, help="the built example shard/examples/embed.rs")
    parser.add_argument("--every", type=int, default=1, help="only every n-th picture")
    arguments = parser.parse_args()
    paths = pictures(arguments.data)[:: arguments.every]
    vectors, errors = ours(arguments.embed, paths)
    model = load_model()
    cosines, one_sided = collections.defaultdict(dict), []
    for path in paths:
        relative = path.relative_to(arguments.data)
        try:
            expected = reference(path, model)
        except Exception as error:  # Pillow raises many kinds for what it cannot read
            if str(path) in vectors:
                one_sided.append(f"{relative}: only here; Pillow: {type(error).__name__} {error}")
            continue
        if str(path) in vectors:
            cosines[relative.parts[0]][str(relative)] = float(vectors[str(path)] @ expected)
        else:
            one_sided.append(f"{relative}: only Pillow; here: {errors[str(path)]}")
    print("\n".join(one_sided))
    for folder, values in cosines.items():
        print(f"{folder:10} {len(values):5} pictures  {percentiles(list(values.values()))}")
    everything = {name: value for values in cosines.values() for name, value in values.items()}
    print(f"{'all':10} {len(everything):5} pictures  {percentiles(list(everything.values()))}")
    print(f"{sum(value < GOAL for value in everything.values())} below {GOAL}; the worst:")
    for name, value in sorted(everything.items(), key=lambda item: item[1])[:40]:
        print(f"  {value:.5f}  {name}")
    first = float(np.percentile(list(everything.values()), 1))
    print(f"1st percentile {first:.5f}: {'good' if first >= GOAL else 'TOO LOW'}")
    return 0 if first >= GOAL else 1


if __name__ == "__main__":
    sys.exit(main())
