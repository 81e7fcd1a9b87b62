"""Self-checks as a reader answers them: by mouse, by keyboard alone, on paper, and without scripts."""
import json
import re

import pytest
from test_pages import axe_source

PAGE = "book/part1/gibbs-policy.html"


def first(page, kind):
    return page.locator(f".kl-self-check[data-kind={kind}]").first


def option(box, right):
    return box.locator(f".kl-option[data-right='{int(right)}']").first


def test_wrong_then_right(visit):
    opened = visit(PAGE)
    box = first(opened.page, "one")
    wrong, right = option(box, False), option(box, True)
    assert not wrong.locator(".kl-feedback").is_visible()
    wrong.locator("label").click()
    assert not wrong.locator(".kl-feedback").is_visible(), "feedback waits for the check"
    box.get_by_role("button", name="Check").click()
    assert "No." in wrong.get_by_role("status").inner_text()
    assert len(wrong.get_by_role("status").inner_text()) > 30
    assert box.get_attribute("data-state") == "wrong"
    right.locator("label").click()
    box.get_by_role("button", name="Check").click()
    assert "Right." in right.get_by_role("status").inner_text()
    assert wrong.get_by_role("status").inner_text() == ""
    assert box.get_attribute("data-state") == "right"
    box.get_by_role("button", name="Show all feedback").click()
    assert "No." in wrong.get_by_role("status").inner_text()
    assert opened.errors == [] and opened.foreign == []


def test_keyboard_alone(visit):
    page = visit(PAGE).page
    box = first(page, "one")
    page.keyboard.press("Tab")
    box.locator("input").first.focus()
    page.keyboard.press("Space")
    for _ in range(box.locator("input").count()):
        assert box.locator(".kl-verdict .kl-feedback").count() <= 1
        page.keyboard.press("Enter")
        if box.get_attribute("data-state") == "right":
            break
        page.keyboard.press("ArrowDown")
    assert box.get_attribute("data-state") == "right"
    assert "Right." in option(box, True).get_by_role("status").inner_text()


def test_nothing_chosen_says_so(visit):
    box = first(visit(PAGE).page, "one")
    box.get_by_role("button", name="Check").click()
    assert "Choose an option" in box.locator(".kl-self-check-outcome").inner_text()


def test_several_right_options_need_all_and_only_them(visit):
    box = first(visit(PAGE).page, "many")
    outcome, check = box.locator(".kl-self-check-outcome"), box.get_by_role("button", name="Check")
    option(box, True).locator("input").check()
    check.click()
    assert "still missing" in outcome.inner_text() and box.get_attribute("data-state") == "wrong"
    option(box, False).locator("input").check()
    check.click()
    assert "should not be" in outcome.inner_text()
    for entry in box.locator(".kl-option").all():
        entry.locator("input").set_checked(entry.get_attribute("data-right") == "1")
    check.click()
    assert outcome.inner_text() == "All found." and box.get_attribute("data-state") == "right"


def test_a_number_and_its_common_mistakes(visit):
    page = visit(PAGE).page
    box = first(page, "number")
    field = box.get_by_label("Your answer")
    cases = box.locator(".kl-option[data-value]")
    for case in cases.all():
        value = float(case.get_attribute("data-value"))
        field.fill(f"{value:.4f}")
        page.keyboard.press("Enter")
        assert case.get_by_role("status").inner_text() != ""
        assert box.locator(".kl-verdict .kl-feedback").count() == 1
        assert box.get_attribute("data-state") == ("right" if case.get_attribute("data-right") == "1" else "wrong")
    answer = float(box.locator(".kl-option[data-right='1']").get_attribute("data-value"))
    for typed, state in ((f"{answer:.3f}".replace(".", ","), "right"), (f"{answer * 3:.6f}/3", "right"),
                         ("12345", "wrong"), ("a lot", ""), ("", "")):
        field.fill(typed)
        page.keyboard.press("Enter")
        assert box.get_attribute("data-state") == state, typed
    assert "Type a number" in box.locator(".kl-self-check-outcome").inner_text()


def test_without_scripts_each_feedback_opens_by_click(visit):
    page = visit(PAGE, java_script_enabled=False).page
    box = first(page, "one")
    assert not box.locator("input, button").first.is_visible()
    assert not option(box, False).locator(".kl-feedback").is_visible()
    option(box, False).locator("summary").click()
    assert "No." in option(box, False).locator(".kl-feedback").inner_text()


@pytest.mark.parametrize("scripts", [True, False])
def test_paper_keeps_every_answer_after_its_options(visit, scripts):
    page = visit(PAGE, java_script_enabled=scripts).page
    page.emulate_media(media="print")
    for kind in ("one", "many"):
        box = first(page, kind)
        options = [entry.bounding_box()["y"] for entry in box.locator("label").all()]
        answers = [entry.bounding_box() for entry in box.locator(".kl-feedback").all()]
        assert len(answers) == len(options)
        assert min(answer["y"] for answer in answers) > max(options)
        assert min(answer["height"] for answer in answers) > 10


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_an_answered_page_passes_axe_and_fits_a_phone(visit, scheme):
    page = visit(PAGE, width=390, height=844, scheme=scheme).page
    for box in page.locator(".kl-self-check").all():
        if box.get_attribute("data-kind") == "number":
            box.locator("input").fill("0.1")
        else:
            box.locator("input").first.check()
        box.get_by_role("button", name="Check").click()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.evaluate("document.querySelectorAll('mjx-container').forEach(m => m.replaceWith('formula'))")
    page.evaluate(axe_source())
    found = page.evaluate("axe.run('.kl-self-check', {resultTypes: ['violations']})")["violations"]
    assert found == [], json.dumps([(v["id"], v["nodes"][0]["html"][:200]) for v in found])


def test_only_pages_with_a_question_load_the_module(visit):
    with_question, without = visit(PAGE), visit("book/how-to-read.html")
    assert any(re.search(r"self-check\.\w*\.?js", url) for url in with_question.requests)
    assert not any("self-check" in url for url in without.requests)
