"""What the budget makes of figures; nothing is counted here."""

import unittest

import budget
from servers import Fault


class Judging(unittest.TestCase):
    KEPT = {("a", "instructions"): 1000.0, ("a", "calls"): 4.0}

    def judged(self, **changes: float) -> tuple[list[str], bool]:
        return budget.judge(self.KEPT, {("a", column): value for column, value in changes.items()})

    def test_a_figure_within_the_slack_is_good(self) -> None:
        said, good = self.judged(instructions=1049.0, calls=3.81)
        self.assertTrue(good)
        self.assertEqual([line.split(":")[0] for line in said], ["ok", "ok"])

    def test_growth_fails_and_says_which_and_by_how_much(self) -> None:
        said, good = self.judged(instructions=1000.0, calls=5.0)
        self.assertFalse(good)
        self.assertIn("HIGHER: a: 5.00 calls a request, 4 in budget.tsv: +25.0%", said)

    def test_a_lower_figure_is_good_and_wants_to_be_written(self) -> None:
        said, good = self.judged(instructions=900.0, calls=4.0)
        self.assertTrue(good)
        expected = "LOWER: a: 900 instructions a request, 1000 in budget.tsv: -10.0%; the new figure wants to be written"
        self.assertIn(expected, said)

    def test_a_figure_that_only_one_side_has_fails(self) -> None:
        self.assertFalse(self.judged(calls=4.0)[1])
        self.assertFalse(budget.judge({}, self.KEPT)[1])


class Files(unittest.TestCase):
    def test_what_is_written_is_read(self) -> None:
        figures = {("a", "instructions"): 1234.0, ("a", "calls"): 4.25, ("b", "calls"): 2.0}
        self.assertEqual(budget.parse(budget.render(figures)), figures)

    def test_the_kept_file_names_every_scenario(self) -> None:
        kept = budget.parse(budget.FILE.read_text())
        wanted = {(scenario.name, "calls") for scenario in budget.SCENARIOS}
        wanted |= {(scenario.name, "instructions") for scenario in budget.SCENARIOS if scenario.instructions}
        self.assertEqual(set(kept), wanted)


class Counting(unittest.TestCase):
    def test_totals_of_callgrind(self) -> None:
        self.assertEqual(budget.Callgrind.read("events: Ir\nsummary: 12345\n"), {"instructions": 12345})
        with self.assertRaises(Fault):
            budget.Callgrind.read("events: Ir\n")

    def test_calls_of_strace(self) -> None:
        text = "syscall   calls\n--------- -----\nrecvfrom   2000\nsendto     1999\n--------- -----\ntotal      3999\n"
        self.assertEqual(budget.Strace.read(text), {"recvfrom": 2000, "sendto": 1999})
        with self.assertRaises(Fault):
            budget.Strace.read("")


if __name__ == "__main__":
    unittest.main()
