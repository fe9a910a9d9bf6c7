"""The files of a Janus-Pro checkpoint folder beside its weights: configuration, tokenizer.

Two layouts are supported: `transformers` (model_type "janus" in config.json, as in
deepseek-community/Janus-Pro-1B) and `official` (model_type "multi_modality", as in
deepseek-ai/Janus-Pro-1B).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from export.checkpoints.recognition import read_json
from export.config.settings import Normalization
from export.errors import CheckpointError
from export.experts.janus.network import LanguageShape, VisionShape
from export.experts.janus.prompt import ImageTokens
from runtime.geometry import Geometry
from runtime.printing import bullets
from runtime.resizing import PAD_SQUARE_LEAST

Layout = Literal["transformers", "official"]
Json = dict[str, Any]

_PROCESSORS: dict[Layout, tuple[str, ...]] = {
    "transformers": ("JanusImageProcessor", "JanusImageProcessorFast", "JanusImageProcessorPil"),
    "official": ("VLMImageProcessor",),
}
"""Values of `image_processor_type` by layout; the first is that of a file without one."""
_VISION_TOWERS = {"siglip_large_patch16_384": VisionShape()}
_LLAMA_DEFAULTS: Json = {  # LlamaConfig's defaults for keys missing in config.json
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "intermediate_size": 11008,
    "vocab_size": 32000,
    "rms_norm_eps": 1e-6,
    "hidden_act": "silu",
    "attention_bias": False,
    "mlp_bias": False,
}


@dataclass(frozen=True, slots=True)
class ImageRecipe:
    """Geometry of the image before the graph, for the manifest."""

    size: int
    """Both sides after padding, in pixels."""
    pad_color: tuple[int, int, int]
    """RGB 0..255: int(mean · 255), as in training."""
    rounding: str = "round"
    """Of the scaled sides: `truncate` with the authors' processor, `round` with transformers'."""

    @property
    def geometry(self) -> Geometry:
        """Geometry of the input."""
        return Geometry(0.0, "pad_square", "pillow_bicubic", self.pad_color, rounding=self.rounding)


@dataclass(frozen=True, slots=True)
class JanusFolder:
    """Configuration of a checkpoint folder: everything but weights and tokenizer."""

    layout: Layout
    vision: VisionShape
    language: LanguageShape
    normalization: Normalization
    recipe: ImageRecipe
    image: ImageTokens = field(default_factory=ImageTokens)


class JanusTokenizer:
    """The checkpoint's tokenizer.json, read with the `tokenizers` library.

    transformers 5 replaces the byte-level pre-tokenizer of DeepSeek's tokenizers by
    SentencePiece's, because tokenizer_config.json names LlamaTokenizerFast, and drops all spaces
    (transformers issue 45488).
    """

    def __init__(self, folder: Path) -> None:
        """Reads tokenizer.json and, for the first token, tokenizer_config.json."""
        from tokenizers import Tokenizer

        file = folder / "tokenizer.json"
        if not file.is_file():
            raise CheckpointError(f"{folder} has no tokenizer.json. Copy it from the checkpoint.")
        try:
            self._tokenizer = Tokenizer.from_file(str(file))
        except Exception as error:  # the library raises this base class
            raise CheckpointError(
                f"{file} is not a tokenizer ({error}). Download it again."
            ) from error
        config = _json(folder, "tokenizer_config.json") or {}
        bos = config.get("bos_token")
        bos = bos.get("content") if isinstance(bos, dict) else bos
        self._bos = self._tokenizer.token_to_id(bos) if bos else None
        self._add_bos = config.get("add_bos_token", True)  # LlamaTokenizer's default

    def encode(self, text: str) -> list[int]:
        """Returns the token ids of a text, with the beginning-of-sentence token if configured."""
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        if self._add_bos and self._bos is not None and ids[:1] != [self._bos]:
            return [self._bos, *ids]
        return ids

    def tokens(self) -> dict[str, int]:
        """Returns the id of every token, added tokens included."""
        vocabulary: dict[str, int] = self._tokenizer.get_vocab(with_added_tokens=True)
        return vocabulary


def read_folder(folder: Path) -> JanusFolder:
    """Reads config.json, preprocessor_config.json and processor_config.json of a checkpoint.

    Raises:
        CheckpointError: a file is missing or describes an unsupported model; every problem at
            once.
    """
    try:
        return _read_folder(folder)
    except CheckpointError:
        raise
    except (TypeError, ValueError, LookupError, AttributeError, ArithmeticError) as error:
        raise CheckpointError(
            f"{folder}: a value in its JSON files is of another kind than Janus-Pro's ({error}). "
            f"Copy them from the checkpoint again."
        ) from error


def _read_folder(folder: Path) -> JanusFolder:
    config = _json(folder, "config.json")
    if config is None:
        raise CheckpointError(f"{folder} has no config.json. Is it a Janus-Pro checkpoint folder?")
    layouts: dict[str, Layout] = {"janus": "transformers", "multi_modality": "official"}
    layout = layouts.get(config.get("model_type", ""))
    if layout is None:
        raise CheckpointError(
            f"{folder / 'config.json'} has model_type {config.get('model_type')!r}; "
            f"Janus-Pro's are {' and '.join(map(repr, layouts))}."
        )
    processor = _json(folder, "processor_config.json") or {}
    images = _json(folder, "preprocessor_config.json") or processor.get("image_processor")
    if images is None:
        raise CheckpointError(
            f"{folder} has neither preprocessor_config.json nor an image_processor in "
            f"processor_config.json. They hold mean, standard deviation and size; copy them from "
            f"the checkpoint."
        )
    problems: list[str] = []
    vision = (_vision if layout == "transformers" else _official_vision)(config, problems)
    key = "text_config" if layout == "transformers" else "language_config"
    language = _language(config.get(key, {}), problems)
    count = int(processor.get("num_image_tokens", vision.tokens))
    normalization, recipe = _images(images, layout, problems)
    _expect(problems, "image tokens of the processor", count, (vision.tokens,))
    _expect(problems, "image size of the processor", recipe.size, (vision.image_size,))
    _expect(problems, "width of the aligner", vision.aligner_width, (language.width,))
    if problems:
        raise CheckpointError(f"{folder} cannot be exported:", *bullets(problems))
    keys = {"placeholder": "image_tag", "begin": "image_start_tag", "end": "image_end_tag"}
    tags = {ours: processor[tag] for ours, tag in keys.items() if tag in processor}
    image_tokens = ImageTokens(count, **tags)
    return JanusFolder(layout, vision, language, normalization, recipe, image_tokens)


def _vision(config: Json, problems: list[str]) -> VisionShape:
    vision, default = config.get("vision_config", {}), VisionShape()
    _expect(problems, "vision hidden_act", vision.get("hidden_act", "gelu"), ("gelu",))
    _expect(problems, "vision use_qk_norm", vision.get("use_qk_norm", False), (False,))
    _expect(problems, "vision attention_bias", vision.get("attention_bias", True), (True,))
    width = vision.get("hidden_size", default.width)
    return VisionShape(
        image_size=_side(vision.get("image_size", default.image_size)),
        patch_size=_side(vision.get("patch_size", default.patch_size)),
        width=width,
        layers=vision.get("num_hidden_layers", default.layers),
        heads=vision.get("num_attention_heads", default.heads),
        mlp_width=int(width * vision.get("mlp_ratio", 4.0)),
        eps=vision.get("layer_norm_eps", default.eps),
        aligner_width=vision.get("projection_dim", default.aligner_width),
        aligner_depth=vision.get("depth", default.aligner_depth),
    )


def _official_vision(config: Json, problems: list[str]) -> VisionShape:
    vision = config.get("vision_config", {}).get("params", {})
    aligner = config.get("aligner_config", {}).get("params", {})
    tower = vision.get("model_name", "siglip_large_patch16_384")
    _expect(problems, "vision tower", tower, tuple(_VISION_TOWERS))
    _expect(problems, "vision select_layer", vision.get("select_layer", -1), (-1,))
    _expect(problems, "aligner", aligner.get("projector_type", "mlp_gelu"), ("mlp_gelu",))
    return VisionShape(
        image_size=_side(vision.get("image_size", 384)),
        aligner_width=aligner.get("n_embed", 2048),
        aligner_depth=aligner.get("depth", 2),
    )


def _language(given: Json, problems: list[str]) -> LanguageShape:
    config = _LLAMA_DEFAULTS | given
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    kind = rope.get("rope_type", rope.get("type", "default"))
    _expect(problems, "language model_type", config.get("model_type", "llama"), ("llama",))
    _expect(problems, "rope type", kind, ("default",))
    _expect(problems, "language hidden_act", config["hidden_act"], ("silu",))
    _expect(problems, "language attention_bias", config["attention_bias"], (False,))
    _expect(problems, "language mlp_bias", config["mlp_bias"], (False,))
    width, heads = config["hidden_size"], config["num_attention_heads"]
    return LanguageShape(
        width=width,
        layers=config["num_hidden_layers"],
        heads=heads,
        kv_heads=config.get("num_key_value_heads") or heads,
        head_width=config.get("head_dim") or width // heads,
        mlp_width=config["intermediate_size"],
        vocabulary=config["vocab_size"],
        eps=config["rms_norm_eps"],
        rope_theta=float(rope.get("rope_theta") or config.get("rope_theta", 10000.0)),
    )


def _images(config: Json, layout: Layout, problems: list[str]) -> tuple[Normalization, ImageRecipe]:
    missing = [key for key in ("image_mean", "image_std") if key not in config]
    problems.extend(f"image processor: {key} is missing" for key in missing)
    _expect(problems, "image processor do_resize", config.get("do_resize", True), (True,))
    _expect(problems, "image processor do_pad", config.get("do_pad", True), (True,))
    _expect(problems, "image processor resample (3 is bicubic)", config.get("resample", 3), (3,))
    mean, std = _triple(config.get("image_mean")), _triple(config.get("image_std"))
    side = _side(config.get("size", config.get("image_size", 384)))
    red, green, blue = (int(channel * 255) for channel in mean)
    least = config.get("min_size", PAD_SQUARE_LEAST)
    _expect(problems, "image processor min_size", least, (PAD_SQUARE_LEAST,))
    processor = config.get("image_processor_type", _PROCESSORS[layout][0])
    known = tuple(name for names in _PROCESSORS.values() for name in names)
    _expect(problems, "image_processor_type", processor, known)
    rounding = "truncate" if processor in _PROCESSORS["official"] else "round"
    recipe = ImageRecipe(side, (red, green, blue), rounding)
    rescale = config.get("rescale_factor", 1 / 255) if config.get("do_rescale", True) else 1.0
    if not config.get("do_normalize", True):
        mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    return Normalization(rescale, mean, std), recipe


def _side(size: Any) -> int:  # noqa: ANN401
    """Returns the side of a square given as a number, a pair, or height and width."""
    if isinstance(size, dict):
        size = size.get("height")
    return int(size[0] if isinstance(size, list) else size)


def _triple(values: Any) -> tuple[float, float, float]:  # noqa: ANN401
    red, green, blue = values or (0.5, 0.5, 0.5)
    return red, green, blue


def _expect(problems: list[str], name: str, found: object, allowed: tuple[object, ...]) -> None:
    if found not in allowed:
        problems.append(f"{name}: found {found!r}, expected {' or '.join(map(repr, allowed))}")


def _json(folder: Path, name: str) -> Json | None:
    file = folder / name
    if not file.exists():
        return None
    return read_json(file)
