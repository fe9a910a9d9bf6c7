"""Teacher pass, training and checkpoint of Janus's light head."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from export.checkpoints.loading import hash_checkpoint
from export.config.architecture import ExpertConfig
from export.config.fingerprints import fingerprint
from export.distillation.teacher import TeacherAnswers
from export.errors import ExportError
from export.experts.janus.expert import JanusSource, janus_signature, janus_source
from export.experts.janus.light_head import HEAD_PREFIX, LightHead
from export.experts.janus.settings import JanusSettings
from export.experts.janus.weights import load_expert, parameter_shapes, source_key
from runtime.errors import InputError
from runtime.files import replacing, write_json
from runtime.geometry import Pixels
from runtime.images import ImageLimits, is_photograph, load_rgb
from runtime.manifest import InputSpec
from runtime.preparation import input_view

_FEWEST_FACES = 20
_TEACHER_BATCH = 8
_BATCH = 32
_LEARNING_RATE = 1e-3
_TEACHER_FOLDER = "teacher"
_COPIED = ("config.json", "preprocessor_config.json", "processor_config.json")

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Distillation:
    """Options of a distillation."""

    config: ExpertConfig
    """The teacher: Janus with the prompt head."""
    checkpoint: Path
    """The teacher's folder."""
    faces: Path
    """A folder of pictures, one face each."""
    output: Path
    """The new checkpoint's folder; it also keeps the teacher's answers."""
    epochs: int = 30
    held_back: float = 0.1
    """Share of the faces that are used for evaluation only."""
    seed: int = 0

    @property
    def settings(self) -> JanusSettings:
        """Settings of the teacher."""
        return cast("JanusSettings", self.config.settings)


def distil(task: Distillation, progress: Progress) -> dict[str, float]:
    """Runs the teacher, trains the head, evaluates it on held-back faces, writes a checkpoint.

    Returns:
        The report, which is also written: numbers of faces, KL divergence in nats, differences
        in years.

    Raises:
        ExportError: there are too few faces or too little disk space.
        ResumeLogError: the output folder holds answers of another teacher.
    """
    source = janus_source(task.settings, task.checkpoint)
    with _open_answers(task, source) as (answers, pictures):
        _answer(task, source, answers, pictures, progress)
        usable = answers.usable()
        if len(usable) < _FEWEST_FACES:
            raise ExportError(
                f"{task.faces} holds {len(usable)} readable pictures. Distillation needs at least "
                f"{_FEWEST_FACES}, and thousands for good results."
            )
        shuffled = np.random.default_rng(task.seed).permutation(usable)
        held = max(round(len(usable) * task.held_back), 1)
        head = _train(task, answers, shuffled[held:], progress)
        report = {
            "faces": len(usable),
            "unreadable": len(pictures) - len(usable),
            "held_back": held,
            "epochs": task.epochs,
            "seed": task.seed,
            **_evaluate(head, answers, shuffled[:held]),
        }
    _write(task, source, head, report)
    return report


@contextlib.contextmanager
def _open_answers(
    task: Distillation, source: JanusSource
) -> Iterator[tuple[TeacherAnswers, list[Path]]]:
    pictures = sorted(
        path for path in task.faces.rglob("*") if is_photograph(path.relative_to(task.faces))
    )
    names = [picture.relative_to(task.faces).as_posix() for picture in pictures]
    settings = {
        "teacher": hash_checkpoint(task.checkpoint),
        "question": asdict(task.settings.question),
        "geometry": fingerprint(asdict(_input(task, source).geometry)),
        "faces": fingerprint([names, [picture.stat().st_size for picture in pictures]]),
    }
    vision = source.folder.vision
    first, last = task.settings.question.ages
    shape = (len(pictures), vision.tokens, vision.aligner_width)
    folder = task.output / _TEACHER_FOLDER
    with TeacherAnswers.open(folder, settings, shape, last - first + 1) as answers:
        yield answers, pictures


def _input(task: Distillation, source: JanusSource) -> InputSpec:
    return janus_signature(task.settings, source, task.config.geometry).inputs[0]


def _answer(
    task: Distillation,
    source: JanusSource,
    answers: TeacherAnswers,
    pictures: Sequence[Path],
    progress: Progress,
) -> None:
    """Runs the teacher on every face without an answer."""
    waiting = answers.waiting()
    if not waiting:
        return
    if source.prompt is None:
        raise ValueError("The teacher has no prompt.")
    spec = _input(task, source)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    expert = load_expert(source.folder, source.tensors, source.prompt).to(device)
    for start in range(0, len(waiting), _TEACHER_BATCH):
        done = len(pictures) - len(waiting) + start
        progress(f"teacher: {done} of {len(pictures)} faces are done")
        views = {i: _view(pictures[i], spec) for i in waiting[start : start + _TEACHER_BATCH]}
        readable = {index: view for index, view in views.items() if view is not None}
        if readable:
            with torch.inference_mode():
                batch = torch.from_numpy(np.stack([*readable.values()])).to(device)
                tokens = expert.tokens(batch)
                _, age_probs, _ = expert.answer(tokens)
            answers.keep([*readable], tokens.half().cpu().numpy(), age_probs.cpu().numpy())
        answers.finish({index: index in readable for index in views})


def _view(picture: Path, spec: InputSpec) -> Pixels | None:
    try:
        return input_view(load_rgb(picture, ImageLimits()), {"face": None}, spec)
    except InputError:
        return None


def _train(
    task: Distillation, answers: TeacherAnswers, indices: NDArray[np.int64], progress: Progress
) -> LightHead:
    first, last = task.settings.question.ages
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(task.seed)
        head = LightHead(answers.tokens.shape[2], range(first, last + 1))
    rng = np.random.default_rng(task.seed)
    steps = task.epochs * -(-len(indices) // _BATCH)
    optimizer = torch.optim.AdamW(head.parameters(), lr=_LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, _LEARNING_RATE, total_steps=steps)
    for epoch in range(task.epochs):
        total = 0.0
        order = rng.permutation(indices)
        for start in range(0, len(order), _BATCH):
            batch = order[start : start + _BATCH]
            divergence = _divergence(head, *_loaded(answers, batch)).mean()
            optimizer.zero_grad()
            divergence.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
            total += float(divergence.detach()) * len(batch)
        progress(f"epoch {epoch + 1} of {task.epochs}: KL divergence {total / len(order):.4f} nats")
    return head.eval()


def _loaded(answers: TeacherAnswers, indices: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
    """Returns tokens (N, T, C) and probabilities (N, A), float32."""
    rows = np.sort(indices)  # in the order of the file
    tokens = torch.from_numpy(np.asarray(answers.tokens[rows], np.float32))
    return tokens, torch.from_numpy(np.asarray(answers.age_probs[rows]))


def _divergence(head: LightHead, tokens: Tensor, age_probs: Tensor) -> Tensor:
    """Returns the KL divergence of the head from its teacher in nats, (N,)."""
    log_probs = torch.log_softmax(head.logits(tokens), -1)
    return F.kl_div(log_probs, age_probs, reduction="none").sum(1)


def _evaluate(
    head: LightHead, answers: TeacherAnswers, indices: NDArray[np.int64]
) -> dict[str, float]:
    years, divergences = [], []
    with torch.inference_mode():
        for start in range(0, len(indices), _BATCH):
            tokens, age_probs = _loaded(answers, indices[start : start + _BATCH])
            found, _ = head(tokens)
            years.append((found - (age_probs * head.ages).sum(1)).abs())
            divergences.append(_divergence(head, tokens, age_probs))
    differences = torch.cat(years)
    return {
        "kl_nats": float(torch.cat(divergences).mean()),
        "mean_years": float(differences.mean()),
        "max_years": float(differences.max()),
    }


def _write(
    task: Distillation, source: JanusSource, head: LightHead, report: Mapping[str, float]
) -> None:
    """Writes the teacher's vision tower and aligner with the new head, and the report."""
    from safetensors.torch import save_file

    shapes = parameter_shapes(source.folder.vision, source.folder.language)
    trunk = [name for name in shapes if name.startswith(("vision_model", "aligner"))]
    keys = dict.fromkeys(source_key(name, source.folder.layout)[0] for name in trunk)
    state = {key: source.tensors[key].contiguous() for key in keys}
    state |= {f"{HEAD_PREFIX}{name}": value for name, value in head.state_dict().items()}
    for name in _COPIED:
        if (task.checkpoint / name).is_file():
            shutil.copyfile(task.checkpoint / name, task.output / name)
    with replacing(task.output / "model.safetensors") as temporary:
        save_file(state, temporary)
    write_json(task.output / "distillation.json", report)
