"""`manifest.json`: reading, checking and writing the manifest.

The exporter writes it last, the runtime reads it first.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from dataclasses import asdict
from pathlib import Path, PurePosixPath

from runtime.errors import ManifestError
from runtime.files import write_json
from runtime.fusion_file import FILE_NAME as FUSION_FILE_NAME
from runtime.geometry import FITS, INTERPOLATIONS, MAX_CROP_MARGIN, Geometry
from runtime.json_reader import JsonReader
from runtime.manifest import (
    BACKENDS,
    ENGINE_BACKENDS,
    INPUT_NAMES,
    OUTPUT_RANKS,
    PRECISIONS,
    REBUILD,
    SOURCE_KINDS,
    Artifact,
    BatchProfile,
    EngineBinding,
    Expert,
    FileRecord,
    InputSpec,
    Manifest,
    Parity,
    Source,
)

FILE_NAME = "manifest.json"
SCHEMA_VERSION = 1
"""Bumped whenever the meaning or the layout of manifest.json changes."""


def read_manifest(folder: Path) -> Manifest:
    """Reads and checks the manifest of an engines folder.

    Raises:
        ManifestError: it is missing, unreadable, of a newer version or inconsistent; every
            problem is listed.
    """
    path = folder / FILE_NAME
    if not path.is_file():
        cure = f"Build the engines first: python export/build_engines.py --output {folder}"
        raise ManifestError(str(path), ["there is no such file"], cure)
    try:
        document = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise ManifestError(str(path), [f"cannot be read: {error}"], REBUILD) from error
    version = document.get("schema_version") if isinstance(document, dict) else None
    if isinstance(version, int) and version > SCHEMA_VERSION:
        problem = f"schema_version {version} is newer than the {SCHEMA_VERSION} this runtime reads"
        raise ManifestError(str(path), [problem], f"Update agemoe-runtime. Or {REBUILD.lower()}")
    problems: list[str] = []
    manifest = _manifest(JsonReader(document, "", problems))
    if problems:
        raise ManifestError(str(path), problems, REBUILD)
    return manifest


def engines_fingerprint(folder: Path) -> str:
    """Returns a SHA-256, 64 hex digits, of the manifest and the fusion tables of an engines folder.

    Raises:
        ManifestError: there is no valid manifest.
    """
    read_manifest(folder)
    digest = hashlib.sha256()
    for name in (FILE_NAME, FUSION_FILE_NAME):
        with contextlib.suppress(FileNotFoundError):
            digest.update(hashlib.sha256((folder / name).read_bytes()).digest())
        digest.update(name.encode())
    return digest.hexdigest()


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Writes a manifest whole; what is written can be read back equal."""
    write_json(folder / FILE_NAME, {"schema_version": SCHEMA_VERSION, **asdict(manifest)})


def _manifest(root: JsonReader) -> Manifest:
    root.only(("schema_version", "created", "tools", "experts"))
    root.child("schema_version").integer(low=1)
    experts = root.child("experts")
    if isinstance(experts.value, dict) and not experts.value:
        experts.problem("must not be empty")
    return Manifest(
        created=root.child("created").string(),
        tools={name: version.string() for name, version in root.child("tools").items()},
        experts={name: _expert(entry) for name, entry in experts.items()},
    )


def _expert(entry: JsonReader) -> Expert:
    entry.only(Expert.__slots__)
    outputs = tuple(o.choice(tuple(OUTPUT_RANKS)) for o in entry.child("outputs").elements())
    grid = tuple(entry.child("age_grid").numbers()) if entry.has("age_grid") else None
    if ("age_probs" in outputs) != (grid is not None):
        entry.child("age_grid").problem("must be given exactly when age_probs is an output")
    expert = Expert(
        architecture=entry.child("architecture").string(),
        source=_source(entry.child("source")),
        inputs=tuple(_input(value) for value in entry.child("inputs").elements()),
        outputs=outputs,
        age_grid=grid,
        profile=_profile(entry.child("profile")),
        artifacts=tuple(_artifact(value) for value in entry.child("artifacts").elements()),
        details={key: value.value for key, value in entry.child("details").items()},
    )
    if "age_years" not in expert.outputs:
        entry.child("outputs").problem("must hold age_years")
    if not expert.inputs or not expert.artifacts:
        entry.problem("needs at least one input and one artifact")
    return expert


def _source(entry: JsonReader) -> Source:
    return Source(
        kind=entry.child("kind").choice(SOURCE_KINDS),
        location=entry.child("location").string(),
        sha256=entry.child("sha256").sha256() if entry.has("sha256") else None,
    )


def _input(entry: JsonReader) -> InputSpec:
    return InputSpec(
        name=entry.child("name").choice(INPUT_NAMES),
        height=entry.child("height").integer(low=1),
        width=entry.child("width").integer(low=1),
        geometry=_geometry(entry.child("geometry")),
    )


def _geometry(entry: JsonReader) -> Geometry:
    color = entry.child("pad_color")
    red, green, blue = ([element.integer() for element in color.elements()] + [0, 0, 0])[:3]
    if isinstance(color.value, list) and (len(color.value) != 3 or max(red, green, blue) > 255):
        color.problem("must be three whole numbers within 0..255")
    margin = entry.child("crop_margin").number()
    if not 0.0 <= margin <= MAX_CROP_MARGIN:
        entry.child("crop_margin").problem(f"must lie within 0..{MAX_CROP_MARGIN:g}, got {margin}")
    return Geometry(
        crop_margin=margin,
        fit=entry.child("fit").choice(FITS),
        interpolation=entry.child("interpolation").choice(INTERPOLATIONS),
        pad_color=(red, green, blue),
        erase_face=entry.child("erase_face").boolean(),
        min_side=entry.child("min_side").integer(low=1),
        min_visible_share=entry.child("min_visible_share").number(),
    )


def _profile(entry: JsonReader) -> BatchProfile:
    smallest, best, largest = (
        entry.child(key).integer(low=1) for key in ("smallest", "best", "largest")
    )
    if not smallest <= best <= largest:
        entry.problem(f"must not decrease: {smallest}, {best}, {largest}")
    return BatchProfile(smallest, best, largest)


def _artifact(entry: JsonReader) -> Artifact:
    files = tuple(_file(value) for value in entry.child("files").elements())
    if not files:
        entry.child("files").problem("must not be empty")
    backend = entry.child("backend").choice(BACKENDS)
    if entry.has("binding") != (backend in ENGINE_BACKENDS):
        entry.child("binding").problem("must be given exactly for TensorRT engines")
    return Artifact(
        backend=backend,
        precision=entry.child("precision").choice(PRECISIONS),
        files=files,
        build_key={cause: v.string() for cause, v in entry.child("build_key").items()},
        reduced_share=entry.child("reduced_share").number(),
        parity=_parity(entry.child("parity")) if entry.has("parity") else None,
        binding=_binding(entry.child("binding")) if entry.has("binding") else None,
    )


def _binding(entry: JsonReader) -> EngineBinding:
    capability = entry.child("compute_capability")
    return EngineBinding(
        tensorrt=entry.child("tensorrt").string(),
        compute_capability=capability.string() if entry.has("compute_capability") else None,
        onnx_sha256=entry.child("onnx_sha256").sha256(),
        flags={name: value.string() for name, value in entry.child("flags").items()},
    )


def _file(entry: JsonReader) -> FileRecord:
    path = entry.child("path").string()
    pure = PurePosixPath(path)
    if pure.is_absolute() or ".." in pure.parts:
        entry.child("path").problem(f"must lie within the folder, got {path!r}")
    return FileRecord(
        path, entry.child("sha256").sha256(), entry.child("size_bytes").integer(low=0)
    )


def _parity(entry: JsonReader) -> Parity:
    return Parity(
        mean_years=entry.child("mean_years").number(),
        max_years=entry.child("max_years").number(),
        faces=entry.child("faces").integer(low=1),
    )
