"""What the report makes of figures, from those of example.json; and that every scenario can be reported and chosen."""

import json
import unittest
from pathlib import Path
from xml.etree import ElementTree

import bench
import report
import scenarios
from servers import Fault

RESULT = json.loads(Path(__file__).with_name("example.json").read_text())


def scenario(name: str) -> report.Result:
    return next(row for row in RESULT["scenarios"] if row["name"] == name)


class Judging(unittest.TestCase):
    def test_a_ratio_is_the_median_of_the_ratios_of_pairs(self) -> None:
        # The ratio of the medians would be 0.90.
        self.assertEqual(report.spread(scenario("quick")["pairs"], "cpu_us"), report.Spread(0.6, 0.5, 0.9))

    def test_each_rule(self) -> None:
        expected = {
            "quick": ("0.60 (0.50–0.90)", True),
            "slow & <wide>": ("2.50 (2.50–2.50)", False),
            "idle": ("memory 0.50 (0.50–0.50), each 1.20 (1.20–1.20)", False),
            "reload": ("1 in all", False),
            "workers": ("1.95", True),
            "mixed": ("memory 1.05, p99 1.05", True),
            "broken": ("failed", False),
        }
        for name, (said, met) in expected.items():
            with self.subTest(name):
                self.assertEqual(report.judge(scenario(name)), report.Verdict(said, met))

    def test_a_figure_that_is_missing_is_not_a_target_that_is_met(self) -> None:
        row = {**scenario("quick"), "pairs": [{"a": {"cpu_us": 1.0}, "b": {"cpu_us": None}}]}
        self.assertEqual(report.judge(row), report.Verdict("no cpu_us", False))


class Tables(unittest.TestCase):
    def test_a_row_has_figures_ratio_target_and_verdict(self) -> None:
        self.assertIn(
            "| quick | 9.00 µs | 10.0 µs | 0.60 (0.50–0.90) | ≤ 0.62 | 0.50 | yes | 1.50 | 0.80 | 0.50 |", report.markdown(RESULT)
        )

    def test_the_conditions_are_told(self) -> None:
        said = (
            "2026-01-02, A Processor, 2 processors, Linux 6.1.0 with cubic, files on tmpfs; "
            "weir/0.1.0 against nginx/1.22.1, wrk 4.1.0, h2load 1.52.0; 3 pairs of 1 s"
        )
        self.assertEqual(report.conditions(RESULT), said)
        self.assertIn(said, report.markdown(RESULT))
        self.assertIn("3 of 7 targets are met", report.markdown(RESULT))

    def test_the_terminal_has_every_scenario_and_the_whole_fault(self) -> None:
        table = report.table(RESULT)
        for row in RESULT["scenarios"]:
            self.assertIn(row["name"], table)
        self.assertTrue(table.endswith("broken: a: 3 of 4 requests failed\nmore"))


class Places(unittest.TestCase):
    def test_only_what_is_between_the_markers_changes(self) -> None:
        text = f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n"
        once = report.put_between(text, "new")
        self.assertEqual(once, f"before\n{report.BEGIN}\nnew\n{report.END}\nafter\n")
        self.assertEqual(report.put_between(once, "new"), once)

    def test_markers_that_are_missing_are_a_fault(self) -> None:
        for text in ("", report.BEGIN, f"{report.END}{report.BEGIN}", f"{report.BEGIN}{report.END}" * 2):
            with self.subTest(text), self.assertRaises(ValueError):
                report.put_between(text, "new")

    def test_the_readme_has_its_markers(self) -> None:
        report.put_between(bench.README.read_text(), "new")


class Picture(unittest.TestCase):
    NAMESPACE = "{http://www.w3.org/2000/svg}"

    def test_it_is_xml_with_a_bar_for_each_ratio(self) -> None:
        root = ElementTree.fromstring(report.picture(RESULT))
        bars = root.findall(f"{self.NAMESPACE}rect")
        self.assertEqual([bar.get("class") for bar in bars], ["met", "missed", "missed"])
        floors = [line for line in root.findall(f"{self.NAMESPACE}line") if line.get("class") == "floor"]
        self.assertEqual([line.get("x1") for line in floors], ["351.5"])
        self.assertIn("slow & <wide>", [text.text for text in root.iter(f"{self.NAMESPACE}text")])

    def test_every_bar_ends_inside(self) -> None:
        root = ElementTree.fromstring(report.picture(RESULT))
        for bar in root.findall(f"{self.NAMESPACE}rect"):
            self.assertLess(float(bar.get("x", "")) + float(bar.get("width", "")), float(root.get("width", "")))

    def test_it_has_a_dark_side(self) -> None:
        self.assertIn("prefers-color-scheme: dark", report.picture(RESULT))


class Scenarios(unittest.TestCase):
    def test_names_are_unique_and_figures_have_units(self) -> None:
        names = [row.name for row in scenarios.SCENARIOS]
        self.assertEqual(len(names), len(set(names)))
        for row in scenarios.SCENARIOS:
            for figure in row.figures:
                self.assertIn(figure, report.UNITS)
                self.assertIn(figure, report.WORDS)

    def test_floors_are_of_scenarios_that_are_loads(self) -> None:
        loads = {row.name for row in scenarios.SCENARIOS if row.kind is scenarios.Kind.LOAD}
        self.assertLessEqual(set(scenarios.FLOORS), loads)

    def test_they_are_chosen_by_pattern(self) -> None:
        self.assertEqual([row.name for row in bench.choose("h2*,p99")], ["h2-1k", "h2-100k", "h2c-1k", "p99"])
        with self.assertRaises(Fault):
            bench.choose("static-1k,no-such")


if __name__ == "__main__":
    unittest.main()
