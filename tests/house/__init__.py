"""
The house rules, each a function from a tree of files to what breaks the rule.

Rules read text and syntax trees and import nothing, so they also judge a tree that does not
run, and can be tried on a tree made up for a test. `tests/test_house.py` applies them to this
repository and holds the exceptions; `tests/test_house_rules.py` breaks each rule on purpose.
"""

from tests.house import shape, store, surface
from tests.house.tree import Finding, Rule, Tree

__all__ = ["RULES", "Finding", "Rule", "Tree"]

RULES: dict[str, Rule] = {
    rule.__name__: rule
    for rule in (
        shape.files_are_short,
        shape.functions_are_short,
        shape.classes_are_small,
        shape.modules_are_nouns,
        shape.modules_have_docstrings,
        shape.the_clock_is_read_in_one_place,
        shape.types_are_learned_by_one_thread,
        shape.one_loop_sleeps,
        shape.sql_lives_in_sql_files,
        shape.nothing_prints,
        shape.nothing_asserts,
        shape.core_imports_little,
        shape.only_the_runtime_names_a_driver,
        store.dialects_agree,
        store.migrations_are_numbered,
        surface.public_names_are_listed,
        surface.public_names_use_our_words,
        surface.errors_are_documented,
        surface.failpoints_are_exercised,
        surface.modules_are_used,
    )
}
