"""The plain loop learns what it says it learns, however its rows are padded."""

from __future__ import annotations

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor

from core.base_model.loading import LoadedBase
from tests.benchmarks.plain_loop import (
    PROJECTIONS,
    PlainRecipe,
    Row,
    distil_plainly,
    generate,
    padding_of,
    prompt_tokens,
    teacher_loss,
    teacher_rows,
    with_text,
)

TEXT = "The ferry leaves at nine."
QUESTIONS = ("When does the ferry leave?", "What leaves?", "Tell me about the ferry, please.")
RECIPE = PlainRecipe(steps=12, rows=3, answer_tokens=6, answer_rows=2)


def test_the_loss_is_the_divergence_on_answer_tokens_of_each_row_alone(loaded_tiny: LoadedBase) -> None:
    tokenizer = loaded_tiny.chat.tokenizer
    rows = [
        Row(prompt_tokens(tokenizer, with_text(TEXT, question)), prompt_tokens(tokenizer, question), (7, 6, 5, 9)[i:])
        for i, question in enumerate(QUESTIONS)
    ]
    student = get_peft_model(loaded_tiny.model, LoraConfig(r=2, target_modules=list(PROJECTIONS)))
    for name, parameter in student.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.2)

    def alone(prompt: tuple[int, ...], answer: tuple[int, ...]) -> Tensor:
        logits: Tensor = student(input_ids=torch.tensor([[*prompt, *answer]])).logits
        return logits[0, -len(answer) - 1 : -1].log_softmax(-1)

    total = torch.zeros(())
    for row in rows:
        with student.disable_adapter():
            teacher = alone(row.teacher_prompt, row.answer)
        total = total + (teacher.exp() * (teacher - alone(row.student_prompt, row.answer))).sum()
    expected = total / sum(len(row.answer) for row in rows)
    torch.testing.assert_close(teacher_loss(student, rows, padding_of(tokenizer)), expected, rtol=1e-4, atol=1e-5)


def test_answers_in_a_batch_are_those_of_each_question_alone(loaded_tiny: LoadedBase) -> None:
    model, tokenizer = loaded_tiny.model, loaded_tiny.chat.tokenizer
    rows = teacher_rows(model, tokenizer, TEXT, QUESTIONS, RECIPE)
    assert [row.student_prompt for row in rows] == [prompt_tokens(tokenizer, question) for question in QUESTIONS]
    for row in rows:
        assert generate(model, tokenizer, [row.teacher_prompt], RECIPE.answer_tokens) == [row.answer]


def test_training_brings_the_loss_down_and_gives_the_model_back(loaded_tiny: LoadedBase) -> None:
    model, tokenizer = loaded_tiny.model, loaded_tiny.chat.tokenizer
    prompts = [prompt_tokens(tokenizer, question) for question in QUESTIONS]
    before = generate(model, tokenizer, prompts, 6)
    losses: list[float] = []
    student = distil_plainly(model, tokenizer, TEXT, QUESTIONS, RECIPE, lambda *told: losses.append(told[2]))
    assert len(losses) == RECIPE.steps
    assert losses[-1] < 0.9 * losses[0]
    assert generate(student.unload(), tokenizer, prompts, 6) == before
