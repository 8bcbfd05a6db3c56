"""The plain loop: how one would distil a document into a LoRA today with `transformers`, PEFT and AdamW.

The rival of our trainer in `tests.benchmarks.distil`, written as a careful user would write it: every step runs the
teacher with the document in its prompt, then the student with its adapter active on the whole row; batches are padded,
and only the answers' logits are computed. The one thing that it leaves out is to keep what the teacher said.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor
from torch.nn.functional import kl_div
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader, RandomSampler

PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True, slots=True)
class PlainRecipe:
    """What a user would set; `steps` comes from our run, so that both see as many rows."""

    steps: int
    rows: int = 8
    rank: int = 16
    alpha: int = 32
    learning_rate: float = 2e-3
    warm_up: int = 6
    clip: float = 1.0
    answer_tokens: int = 28
    answer_rows: int = 16
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Row:
    """The tokens of one question as the teacher reads it, as the student reads it, and of the teacher's answer.

    The answer has its end token where it came to its end.
    """

    teacher_prompt: tuple[int, ...]
    student_prompt: tuple[int, ...]
    answer: tuple[int, ...]


Progress = Callable[[int, int, float], None]


def distil_plainly(
    model: Any, tokenizer: Any, text: str, questions: Sequence[str], recipe: PlainRecipe, progress: Progress
) -> PeftModel:
    """The model with a trained adapter for `text`; `unload()` gives the model back. `progress` hears of every step."""
    rows = teacher_rows(model, tokenizer, text, questions, recipe)
    torch.manual_seed(recipe.seed)
    config = LoraConfig(r=recipe.rank, lora_alpha=recipe.alpha, target_modules=list(PROJECTIONS), task_type="CAUSAL_LM")
    student = get_peft_model(model, config)
    learnt = [parameter for parameter in student.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(learnt, lr=recipe.learning_rate)
    # Not transformers' linear schedule: its first step has the rate 0, and there are few steps.
    schedule = LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / recipe.warm_up) * (1 - step / recipe.steps))
    student.train()
    for step, batch in enumerate(_batches(rows, recipe)):
        loss = teacher_loss(student, batch, padding_of(tokenizer))
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(learnt, recipe.clip)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        progress(step + 1, recipe.steps, float(loss.detach()))
    return student.eval()


def teacher_rows(model: Any, tokenizer: Any, text: str, questions: Sequence[str], recipe: PlainRecipe) -> list[Row]:
    """The questions with the model's greedy answers with the document in view."""
    rows: list[Row] = []
    for start in range(0, len(questions), recipe.answer_rows):
        part = questions[start : start + recipe.answer_rows]
        prompts = [prompt_tokens(tokenizer, with_text(text, question)) for question in part]
        answers = generate(model, tokenizer, prompts, recipe.answer_tokens)
        own = [prompt_tokens(tokenizer, question) for question in part]
        rows += [Row(*row) for row in zip(prompts, own, answers, strict=True)]
    return rows


@torch.no_grad()
def generate(model: Any, tokenizer: Any, prompts: Sequence[tuple[int, ...]], limit: int) -> list[tuple[int, ...]]:
    """Greedy answers to prompts, up to `limit` tokens each, with their end token but without padding."""
    batch = _padded(prompts, padding_of(tokenizer))
    written = model.generate(
        input_ids=batch["input_ids"].to(model.device),
        attention_mask=batch["attention_mask"].to(model.device),
        max_new_tokens=limit,
        do_sample=False,
        pad_token_id=padding_of(tokenizer),
    )
    ends = model.generation_config.eos_token_id
    ends = set(ends if isinstance(ends, list) else [ends])
    return [_until_end(row, ends) for row in written[:, batch["input_ids"].shape[1] :].tolist()]


def teacher_loss(student: PeftModel, rows: Sequence[Row], padding: int) -> Tensor:
    """KL(teacher with the document ‖ student without it), mean over the answers' tokens, on the full vocabulary."""
    answers = [row.answer for row in rows]
    with torch.no_grad(), student.disable_adapter():
        teacher = _answer_logits(student, [row.teacher_prompt for row in rows], answers, padding)
    own = _answer_logits(student, [row.student_prompt for row in rows], answers, padding)
    return kl_div(own.log_softmax(-1), teacher.log_softmax(-1), log_target=True, reduction="batchmean")


def with_text(text: str, question: str) -> str:
    """The teacher's message: word for word that of our self-study."""
    return f"{text}\n\nUsing the text above, answer briefly: {question}"


def prompt_tokens(tokenizer: Any, message: str) -> tuple[int, ...]:
    """A chat of one user message, up to where the assistant answers."""
    chat = tokenizer.apply_chat_template(
        [{"role": "user", "content": message}], tokenize=False, add_generation_prompt=True
    )
    return tuple(tokenizer.encode(chat, add_special_tokens=False))


def padding_of(tokenizer: Any) -> int:
    padding: int | None = tokenizer.pad_token_id
    return int(tokenizer.eos_token_id) if padding is None else padding


def _answer_logits(
    model: Any, prompts: Sequence[tuple[int, ...]], answers: Sequence[tuple[int, ...]], padding: int
) -> Tensor:
    """Logits `[answer tokens of all rows, vocabulary]`, each of the position before its token.

    Rows are padded on the left: the answers then end where the batch ends, and no other position needs its logits.
    """
    batch = _padded([(*prompt, *answer) for prompt, answer in zip(prompts, answers, strict=True)], padding)
    longest = max(len(answer) for answer in answers)
    logits = model(
        input_ids=batch["input_ids"].to(model.device),
        attention_mask=batch["attention_mask"].to(model.device),
        logits_to_keep=longest + 1,
        use_cache=False,
    ).logits
    lengths = torch.tensor([len(answer) for answer in answers], device=logits.device)
    of_answer = torch.arange(longest, 0, -1, device=logits.device) <= lengths[:, None]
    kept: Tensor = logits[:, :-1][of_answer].float()
    return kept


def _batches(rows: Sequence[Row], recipe: PlainRecipe) -> DataLoader[Row]:
    """`steps` batches of `rows` rows: as many shuffled turns through all of them as that takes."""
    generator = torch.Generator().manual_seed(recipe.seed)
    turns = RandomSampler(rows, num_samples=recipe.steps * recipe.rows, generator=generator)
    return DataLoader(list(rows), batch_size=recipe.rows, sampler=turns, collate_fn=list)  # type: ignore[arg-type]


def _padded(rows: Sequence[tuple[int, ...]], padding: int) -> dict[str, Tensor]:
    """`input_ids` and `attention_mask` `[rows, longest]`, padded on the left."""
    longest = max(len(row) for row in rows)
    return {
        "input_ids": torch.tensor([[*[padding] * (longest - len(row)), *row] for row in rows]),
        "attention_mask": torch.tensor([[*[0] * (longest - len(row)), *[1] * len(row)] for row in rows]),
    }


def _until_end(tokens: Sequence[int], ends: set[int]) -> tuple[int, ...]:
    end = next((i for i, token in enumerate(tokens) if token in ends), None)
    return tuple(tokens) if end is None else tuple(tokens[: end + 1])
