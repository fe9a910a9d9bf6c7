"""`agemoe doctor`: installed packages, working backends, state of the engines."""

from __future__ import annotations

import platform
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from runtime import __version__, fusion_file, policy_file
from runtime.agemoe import AgeMoE
from runtime.backends.fallback import FallbackWarning
from runtime.backends.gpu.cuda_library import cuda_devices
from runtime.backends.gpu.tensorrt_engine import import_tensorrt
from runtime.backends.onnx import import_onnxruntime
from runtime.backends.openvino_graph import has_bfloat16, has_exact_int8, import_openvino
from runtime.cores import usable_cores
from runtime.decoding.limits import missing_limits
from runtime.detectors.names import AUTO, DetectorFallbackWarning, detector_named
from runtime.errors import AgeMoEError, BackendError, EngineFileError, PolicyError
from runtime.installed import Installed, described, imported, installed_version
from runtime.manifest import ENGINE_BACKENDS, DetectorRecord, Expert, verify_files
from runtime.manifest_file import read_manifest
from runtime.opencv import WANTED, haar_cascade, import_opencv
from runtime.program import command_line
from runtime.startup import PlaceholderWeightsWarning

_DECODERS = ("jpg", "zlib", "webp")
"""Features that Pillow has to be compiled with."""
_MODES = {"lanes": "all at the same time", "sequence": "one after the other, which is faster here"}
_NEEDED = ("CPUExecutionProvider",)
_IDENTITY_GRAPH = (
    b'\x08\x08\x12\x00:7\n\x10\n\x01x\x12\x01y"\x08Identity\x12\x01gZ\x0f\n\x01x\x12\n\n\x08\x08\x01\x12'
    b"\x04\n\x02\x08\x01b\x0f\n\x01y\x12\n\n\x08\x08\x01\x12\x04\n\x02\x08\x01B\x04\n\x00\x10\x11"
)
"""An ONNX graph of one Identity node, to test a provider."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One entry of the report."""

    topic: str
    text: str
    fine: bool = True
    module: Installed | None = None
    """The module that the entry is about; None for others."""

    def to_dict(self) -> dict[str, object]:
        """Returns the entry for `doctor --json`: `module` only where there is one."""
        return {name: value for name, value in asdict(self).items() if value is not None}


def examine(engines: Path) -> Iterator[Finding]:
    """Examines the machine and an engines folder, one finding at a time."""
    yield Finding("python", f"{platform.python_version()} on {platform.platform()}")
    yield Finding("cores", f"{usable_cores()} usable by this process")
    limited = "the time and memory of processes that decode pictures can be limited"
    yield Finding("decoders", missing_limits() or limited)
    installed = installed_version("agemoe-runtime")
    yield Finding("agemoe-runtime", installed or f"{__version__}, not installed as a distribution")
    yield _module_finding(imported("numpy", "numpy"))
    yield _pillow_finding()
    yield _opencv_finding()
    yield from _onnxruntime_findings()
    yield _openvino_finding()
    yield from _gpu_findings()
    yield from _engine_findings(engines)


def _module_finding(module: Installed, note: str = "", topic: str = "") -> Finding:
    """Returns the entry about a module: version, folder, owners, then a note or its problem."""
    owners = " and ".join(module.distributions) or "no distribution"
    place = Path(module.file).parent if module.file else "no file"
    text = f"{module.version or 'unknown version'} in {place}, of {owners}"
    if module.version is None and module.file is None:
        text = "not importable"
    marked = f"\n{module.problem}" if module.problem else ""
    noted = f"\n{note}" if note else ""
    return Finding(
        topic or module.name, f"{text}{noted}{marked}", fine=not module.problem, module=module
    )


def _pillow_finding() -> Finding:
    module = imported("PIL", "pillow")
    if module.version is None or module.problem:
        return _module_finding(module)
    from PIL import features

    if missing := [name for name in _DECODERS if not features.check(name)]:
        problem = (
            f"compiled without {', '.join(missing)}. Run: pip install --force-reinstall pillow"
        )
        return _module_finding(replace(module, problem=problem))
    return _module_finding(module)


def _opencv_finding() -> Finding:
    module = imported("cv2", WANTED)
    try:
        import_opencv()
    except BackendError as error:
        return _module_finding(replace(module, problem=module.problem or str(error)))
    try:
        haar_cascade()
    except BackendError as error:
        return _module_finding(module, str(error))  # a problem only for folders without a detector
    return _module_finding(module)


def _onnxruntime_findings() -> Iterator[Finding]:
    try:
        onnxruntime = import_onnxruntime()
    except AgeMoEError as error:
        yield Finding("onnxruntime", str(error), fine=False)
        return
    yield _module_finding(described(onnxruntime, "onnxruntime"))
    for provider in onnxruntime.get_available_providers():
        yield _provider_finding(provider)


def _provider_finding(provider: str) -> Finding:
    """Tests whether a provider that is listed as available runs a graph."""
    onnxruntime = import_onnxruntime()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # errors are reported below
    try:
        session = onnxruntime.InferenceSession(_IDENTITY_GRAPH, options, providers=[provider])
        used = session.get_providers()[0]
    except Exception as error:  # noqa: BLE001 - ONNX Runtime's own exceptions share no base class
        return Finding(provider, f"listed, but unusable: {error}", provider not in _NEEDED)
    if used != provider:
        return Finding(provider, f"listed, but unusable: falls back to {used}")
    return Finding(provider, "usable")


def _openvino_finding() -> Finding:
    try:
        module = described(import_openvino(), "openvino")
        kinds = {"bf16": has_bfloat16(), "int8": has_exact_int8()}
    except BackendError as error:
        return Finding("openvino", str(error))  # only variants in bf16 and INT8 need it
    usable = " and ".join(kind for kind, has in kinds.items() if has) or "neither bf16 nor int8"
    return _module_finding(module, f"variants this CPU can run: {usable}")


def _gpu_findings() -> Iterator[Finding]:
    found = cuda_devices()
    if found.reason:
        yield Finding("gpu", found.reason)
    for facts in found.devices:
        yield Finding(
            f"cuda:{facts.ordinal}",
            f"{facts.name}, compute capability {facts.compute_capability}, "
            f"{facts.total_bytes / 2**30:.0f} GiB, driver for CUDA {facts.driver}",
        )
    for backend in ENGINE_BACKENDS:
        try:
            yield _module_finding(described(import_tensorrt(backend), backend), topic=backend)
        except BackendError as error:
            yield Finding(backend, str(error))


def _engine_findings(engines: Path) -> Iterator[Finding]:
    try:
        manifest = read_manifest(engines)
    except AgeMoEError as error:
        yield Finding("engines", str(error), fine=False)
        return
    tools = ", ".join(f"{name} {number}" for name, number in manifest.tools.items())
    yield Finding("engines", f"{engines}, built {manifest.created} with {tools}")
    for name, expert in manifest.experts.items():
        yield from _expert_findings(engines, name, expert)
    yield _detector_finding(engines, manifest.detector)
    yield _fusion_finding(engines)
    yield _policy_finding(engines)
    yield _opening_finding(engines)


def _expert_findings(engines: Path, name: str, expert: Expert) -> Iterator[Finding]:
    source = expert.source
    weights = "" if source.sha256 is None else f" (sha256 {source.sha256[:12]}…)"
    stated = f", license {source.license}" if source.license else ""
    yield Finding(name, f"{expert.architecture}, {source.kind}: {source.location}{weights}{stated}")
    for artifact in expert.artifacts:
        parity = artifact.parity
        differs = (
            ""
            if parity is None
            else f"; {parity.mean_years:.1e} years from the original on average, "
            f"{parity.max_years:.1e} at most"
        )
        try:
            verify_files(engines, name, artifact)
        except EngineFileError as error:
            yield Finding(f"  {artifact.precision}", str(error), fine=False)
        else:
            yield Finding(f"  {artifact.precision}", f"{artifact.backend}, intact{differs}")


def _detector_finding(engines: Path, detector: DetectorRecord | None) -> Finding:
    if detector is None:
        try:
            haar_cascade()
        except BackendError as error:
            return Finding("detector", f"none, and {error}", fine=False)
        return Finding(
            "detector", "none: OpenCV's Haar cascade finds the faces, which misses more of them"
        )
    license_ = detector.source.license or "license unknown"
    found = f"{detector.name}, {detector.source.location} ({license_})"
    try:
        detector_named(AUTO, engines)
    except AgeMoEError as error:
        return Finding("detector", f"{found}: {error}", fine=False)
    return Finding("detector", f"{found}, intact and usable")


def _fusion_finding(engines: Path) -> Finding:
    path = engines / fusion_file.FILE_NAME
    if not path.exists():
        return Finding(
            "fusion",
            "no fusion.json: experts are averaged, without an interval. Calibrate: "
            f"{command_line('calibrate')}",
        )
    try:
        tables = fusion_file.read_fusion(path)
    except AgeMoEError as error:
        return Finding("fusion", str(error), fine=False)
    text = f"calibrated for {', '.join(tables.experts)}"
    found = "" if tables.detector is None else f", on faces found by {tables.detector}"
    return Finding("fusion", f"{text}{found}")


def _policy_finding(engines: Path) -> Finding:
    if not (engines / policy_file.FILE_NAME).exists():
        return Finding(
            "policy",
            f"no policy.json: no decisions. Fit one: {command_line('evaluate --policy')}",
        )
    try:
        policy = policy_file.read_policy(engines)
    except AgeMoEError as error:
        return Finding("policy", str(error), fine=False)
    floor = "" if policy.floor is None else f", floor {policy.floor:g}"
    text = f"{policy.id}: threshold {policy.threshold:g}, challenge {policy.challenge:g}{floor}"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DetectorFallbackWarning)  # it has an entry of its own
            used = detector_named(AUTO, engines).provenance
        if policy.binding is not None:
            policy_file.check_policy_fits(policy, policy.binding, detector=used)
    except PolicyError as error:
        return Finding("policy", f"{text}\n{error}", fine=False)
    except AgeMoEError:  # of the detector, too
        return Finding("policy", f"{text}, fits the engines")
    return Finding("policy", f"{text}, fits the engines and their detector")


def _opening_finding(engines: Path) -> Finding:
    try:
        with warnings.catch_warnings(record=True) as caught:
            # The sources are listed above.
            warnings.simplefilter("ignore", PlaceholderWeightsWarning)
            warnings.simplefilter("always", FallbackWarning)
            with AgeMoE(engines) as moe:
                used = ", ".join(f"{name} on {backend}" for name, backend in moe.backends.items())
                mode = _MODES[moe.concurrency]
    except AgeMoEError as error:
        return Finding("opening", str(error), fine=False)
    fallbacks = "".join(f"\n{warning.message}" for warning in caught)
    return Finding("opening", f"works: {used}, {mode}{fallbacks}", fine=not fallbacks)
