"""Each way in that a kind of output has by docs/outputs.md has a test."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parents[2]
KINDS = ("several_labels", "regression")

_TRAINERS = "integrations/test_kinds_in_trainers.py"
_MIXED, _TOKENS = "selection/test_mixed_views.py", "integrations/test_tokens_in_trainers.py"
_TOKEN_RUNS = "experiments/runs/test_token_runs.py"
_PAGE = "experiments/report/test_page.py"


def of_both(path, *names):
    """Tests of the two kinds with labels, in files named after them."""
    given = names if len(names) == len(KINDS) else names * len(KINDS)
    return [f"{path.format(kind)}::{name}" for kind, name in zip(KINDS, given, strict=True)]


_FROM_A_TABLE = of_both(
    "experiments/runs/test_{}_runs.py", "test_from_a_table_to_labels", "test_from_a_table_to_values"
)

CELLS = {
    "command line": (
        ["cli/test_cli_runs.py::test_evaluate_gives_what_the_run_measured"],
        _FROM_A_TABLE,
        ["experiments/runs/test_embedding_runs.py::test_from_lines_to_embeddings"],
        [f"{_TOKEN_RUNS}::test_from_a_text_to_a_student"],
        [f"{_MIXED}::test_from_the_command_line"],
    ),
    "`distill` in Python": (
        ["training/test_api.py::test_a_self_regulated_teachers_ledger_weighs_the_student"],
        of_both("training/test_{}_training.py", "test_a_part_of_the_rows_is_enough"),
        ["training/test_embedding_training.py::test_from_texts_alone_with_a_part_of_the_rows"],
        ["training/test_tokens_in_training.py::test_a_teacher_is_trained_and_distilled"],
        [f"{_MIXED}::test_a_training_on_mixed_views_is_a_plain_loop"],
    ),
    "a loop of your own": (
        ["selection/test_selection_recount.py::test_last_visit_agrees_with_a_recount"],
        of_both("training/test_{}_training.py", "test_an_own_loop_comes_to_what_distill_does"),
        ["training/test_embedding_training.py::test_an_own_loop_comes_to_what_distill_does"],
        ["docs/test_pages.py::test_every_block_of_a_page_runs"],
        [f"{_MIXED}::test_only_plain_views_are_judged"],
    ),
    "`FrugalTrainer`, `FrugalMixin`": (
        ["integrations/test_transformers.py::test_a_regulated_run_has_the_ledger_of_a_plain_loop"],
        [f"{_TRAINERS}::test_a_trainer_comes_to_what_a_loop_does"],
        [f"{_TRAINERS}::test_a_trainer_comes_to_what_a_loop_does"],
        [f"{_TOKENS}::test_a_step_is_that_of_one_big_batch"],
        [f"{_TRAINERS}::test_a_trainer_comes_to_what_a_loop_does"],
    ),
    "Lightning": (
        ["integrations/test_lightning.py::test_a_regulated_run_is_that_of_a_plain_loop"],
        [f"{_TRAINERS}::test_a_trainer_comes_to_what_a_loop_does"],
        [f"{_TRAINERS}::test_a_trainer_comes_to_what_a_loop_does"],
        [],
        [f"{_TRAINERS}::test_a_trainer_comes_to_what_a_loop_does"],
    ),
    "stored targets": (
        ["teachers/test_stored.py::test_a_student_distilled_from_either_is_the_same"],
        of_both(
            "training/test_{}_training.py", "test_stored_logits_select_the_same_rows",
            "test_stored_values_select_the_same_rows",
        ),
        ["training/test_embedding_training.py::test_stored_embeddings_select_the_same_rows"],
        ["language/test_token_targets.py::test_a_store_keeps_every_row_once"],
        [f"{_MIXED}::test_a_training_on_mixed_views_is_a_plain_loop"],
    ),
    "resuming within an epoch, `distill`": (
        ["training/test_trainer.py::test_a_resumed_run_ends_bit_for_bit_where_the_whole_one_does"],
        of_both("training/test_{}_training.py", "test_a_stopped_training_resumes_bit_for_bit"),
        ["training/test_embedding_training.py::test_a_stopped_training_resumes_bit_for_bit"],
        ["training/test_tokens_in_training.py::test_a_run_resumes_in_the_middle_of_an_epoch"],
        [f"{_MIXED}::test_a_gate_resumes_in_the_middle_of_an_epoch"],
    ),
    "resuming within an epoch, trainers": (
        [
            "integrations/test_transformers.py::test_a_run_resumes_in_the_middle_of_an_epoch",
            "integrations/test_lightning.py::test_a_run_resumes_from_any_checkpoint_of_lightning",
        ],
        [f"{_TRAINERS}::test_a_trainer_resumes_in_the_middle_of_an_epoch"],
        [f"{_TRAINERS}::test_a_trainer_resumes_in_the_middle_of_an_epoch"],
        [f"{_TOKENS}::test_a_run_resumes_in_the_middle_of_an_epoch"],
        [f"{_TRAINERS}::test_a_trainer_resumes_in_the_middle_of_an_epoch"],
    ),
    "several ranks, `distill`": (
        ["training/test_trainer_ranks.py::test_two_ranks_learn_what_one_learns"],
        of_both(
            "training/test_{}_training.py", "test_two_ranks_share_one_reference_and_one_student"
        ),
        [
            "training/test_embedding_training.py::"
            "test_two_ranks_share_one_reference_and_one_student"
        ],
        ["language/test_language_ranks.py::test_two_ranks_are_one_process"],
        [f"{_MIXED}::test_two_ranks_agree"],
    ),
    "several ranks, trainers": (
        ["integrations/test_integration_ranks.py::test_two_ranks_train_what_the_merged_ledger_says"],
        [f"{_TRAINERS}::test_two_ranks_come_to_what_a_loop_does"],
        [f"{_TRAINERS}::test_two_ranks_come_to_what_a_loop_does"],
        [f"{_TOKENS}::test_two_ranks_are_one_process"],
        [f"{_TRAINERS}::test_two_ranks_come_to_what_a_loop_does"],
    ),
    "`compare`": (
        ["experiments/comparison/test_run.py::test_every_control_matches_its_run_seed_by_seed"],
        of_both(
            "experiments/runs/test_{}_runs.py", "test_a_comparison_with_a_control",
            "test_a_comparison_with_its_controls",
        ),
        ["experiments/runs/test_embedding_runs.py::test_a_comparison_with_its_controls"],
        [f"{_TOKEN_RUNS}::test_arms_are_compared"],
        [f"{_MIXED}::test_from_the_command_line"],
    ),
    "`report`": (
        [f"{_PAGE}::test_a_real_run_and_a_real_comparison"],
        _FROM_A_TABLE,
        ["experiments/runs/test_embedding_runs.py::test_from_lines_to_embeddings"],
        [f"{_TOKEN_RUNS}::test_from_a_text_to_a_student"],
        [f"{_MIXED}::test_from_the_command_line"],
    ),
}  # fmt: skip
"""Way in -> the tests of each column."""


def rows():
    """Of the first table after its heading: the words of each cell."""
    _, _, after = (ROOT / "docs" / "outputs.md").read_text().partition("| way in |")
    table = ("|" + after).partition("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table]


def test_each_yes_has_a_test_and_no_other_cell():
    assert [name for name, *_ in rows()] == list(CELLS)
    for name, *cells in rows():
        for cell, tests in zip(cells, CELLS[name], strict=True):
            assert bool(tests) == cell.startswith("yes"), (name, cell)
            for test in tests:
                path, _, function = test.partition("::")
                assert f"def {function}(" in (ROOT / "tests" / path).read_text(), test
