"""What a cleaned corpus must not hold: personal data, listed terms, what a classifier finds, evaluation texts; and the
reviewers' decisions, which win over all of it."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections import Counter

import pytest
from conftest import ROOT, make_tokenizer, write_rows
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("datatrove", reason="pip install -e '.[clean]'")
from datatrove.data import Document

from align.clean.review.decisions import Decisions
from align.clean.rules import decontaminate
from align.clean.rules.lists import WordList
from align.clean.rules.personal import find, mask, veil
from align.clean.rules.ruling import Ruling
from align.clean.tally import Tally
from align.run.errors import ConfigError, DataError, RunError

# ------------------------------------------------------------------------------------------------------ personal data

FOUND = [line.split(" | ") for line in """
Write to bob@example.com today. | Write to <email> today.
<first.last+tag@mail.example.co.uk> | <<email>>
jürgen@example.de and mailto:x_y@a-b.org | <email> and mailto:<email>
?email=bob@example.com&x=1 | ?email=<email>&x=1
Bob@Example.COM. | <email>.
"'bob@example.com'" | "'<email>'"
请联系bob@example.com谢谢大家 | 请联系<email>谢谢大家
이메일은 bob@example.com으로 | 이메일은 <email>으로
用户@例子.公司 | <email>
дима@почта.рф | <email>
write bob@example.com_ or _bob@example.com_ | write <email>_ or _<email>_
Host 8.8.8.8 is up. | Host <ip> is up.
[93.184.216.34]:80 | [<ip>]:80
over 2606:4700:4700::1111, | over <ip>,
(2a00:1450:4001:81b:0:0:0:200e) | (<ip>)
from ::ffff:8.8.8.8 | from <ip>
Call (212) 555-0123 now | Call <phone> now
212-555-0123 | <phone>
212.555.0123, please | <phone>, please
1-800-555-0199 | <phone>
+1 212 555 0123 | <phone>
+1 (212) 555-0123. | <phone>.
+12125550123 | <phone>
+44 20 7946 0958 | <phone>
+44 (0)20 7946 0958 in 2023 | <phone> in 2023
+49-30-901820 | <phone>
+33 6 12 34 56 78 | <phone>
0049 30 901820 | <phone>
Tel.: 020 7946 0958 | Tel.: <phone>
phone number is 2125550123 | phone number is <phone>
Fax (030) 901820 | Fax <phone>
call us at 212 555 0123 | call us at <phone>
tel:+1-201-555-0123 | tel:<phone>
4111 1111 1111 1111 | <card>
4111111111111111 | <card>
5500-0000-0000-0004 exp 12/27 | <card> exp 12/27
3782 822463 10005 | <card>
card 6011111111111117. | card <card>.
4111 1111 1111 1111 123 | <card> 123
GB82 WEST 1234 5698 7654 32 | <iban>
GB82WEST12345698765432. | <iban>.
IBAN DE89 3704 0044 0532 0130 00 | IBAN <iban>
ES91 2100 0418 4502 0005 1332 CALL | <iban> CALL
FR14 2004 1010 0505 0001 3M02 606 | <iban>
NO93 8601 1117 947 | <iban>
gb82 west 1234 5698 7654 32 | <iban>
de89370400440532013000, | <iban>,
123-45-6789 | <ssn>
SSN: 123 45 6789 | SSN: <ssn>
social security number 123456789 | social security number <ssn>
""".strip().splitlines()]  # fmt: skip

# Years, dates, prices, book and version numbers, private addresses, wrong checksums, numbers that nobody has
LEFT = """
follow @bob on x
icon@2x.png and package@1.2.3
example.com/@user.name
a @ b.com
10.0.0.1 and 192.168.1.10 and 127.0.0.1
1.2.3.4.5
version 1.2.3.4
Chrome/120.0.6099.109
999.1.2.3
std::vector at 12:30:45
fe80::1 2001:db8::1
In 1999 2000 2001 2002
from 1914-1918 to 1939-1945
2023-11-20 14:30:00
20/11/2023 20.11.2023 2023/11/20
20231120143000
$1,234,567.89 and 1.234.567,89
$212-555-0123
ISBN 978-0-306-40615-7
ISBN 978 0 306 40615 7
ISBN 9780306406157
3.14159265358979
1000000 and 12345678 and 1 000 000 000
300 400 5000
+1000000 points
4111 1111 1111 1112
1234 5678 9012 3456
4000000000000000
GB82 WEST 1234 5698 7654 33
Gb82 WEST 1234 5698 7654 32
be8853900754a034
::ffff:10.0.0.1
020 7946 0958 or 06 12 34 56 78
000-12-3456 666-12-3456 912-34-5678
123-45-67890
40.712776, -74.005974
call on 2023-11-20
doi:10.1038/212-555-0123
1700000000000
page 123-456-7890123
Figures 10-20 30-40 50-60 70-80
""".strip().splitlines()


@pytest.mark.parametrize(("text", "masked"), FOUND, ids=[text for text, _ in FOUND])
def test_personal_data_is_masked(text, masked):
    assert mask(text)[0] == masked


@pytest.mark.parametrize("text", LEFT)
def test_numbers_that_are_nobodys_are_left_alone(text):
    assert mask(text) == (text, Counter())


def test_masks_are_counted_by_kind_and_kinds_can_be_chosen():
    text = "bob@example.com, ann@example.com, 8.8.8.8"
    assert mask(text)[1] == {"email": 2, "ip": 1}
    assert mask(text, ["ip"]) == ("bob@example.com, ann@example.com, <ip>", Counter(ip=1))
    assert find(text) == [(0, 15, "email"), (17, 32, "email"), (34, 41, "ip")]


@given(st.text(st.sampled_from("0123456789+-(). @abAB:/"), max_size=80))
@settings(max_examples=300, deadline=None)
def test_spans_are_in_order_and_masking_is_stable(text):
    spans = find(text)
    assert all(0 <= start < end <= len(text) for start, end, _ in spans)
    assert all(a[1] <= b[0] for a, b in zip(spans, spans[1:], strict=False))
    masked, counts = mask(text)
    assert counts.total() == len(spans) and masked.count("<") == len(spans)


@given(st.text(st.sampled_from("0123456789+-(). @abAB:/"), max_size=80))
@settings(max_examples=200, deadline=None)
def test_veiled_text_keeps_its_places_and_shows_nothing_personal(text):
    shown, spans = veil(text), find(text)
    assert len(shown) == len(text)
    assert not any(c.isalnum() for start, end, _ in spans for c in shown[start:end])
    hidden = {at for start, end, _ in spans for at in range(start, end)}
    assert all(shown[at] == text[at] for at in range(len(text)) if at not in hidden)


def test_the_cards_samples_show_no_personal_data():
    text = "Write to bob@example.com today."
    doc, tally = Document(text, "0" * 16), Tally("lists")
    tally.stop(doc, Ruling("drop", "listed", spans=((26, 31),)))
    tally.change("email", doc, text, mask(text)[0])
    sample, change = tally.samples["listed"][0], tally.changes["email"][0]
    assert sample["text"] == change["before"] == "Write to •••@•••••••.••• today." and sample["spans"] == [[26, 31]]
    assert change["after"] == "Write to <email> today."


def test_nothing_that_datatrove_masks_in_the_table_is_missed():
    from datatrove.pipeline.formatters.pii import PIIFormatter

    theirs = PIIFormatter(email_replacement="<email>", ip_replacement="<ip>")
    for text, masked in FOUND:
        for word in ("<email>", "<ip>"):
            assert theirs.format(text).count(word) <= masked.count(word), text


# ------------------------------------------------------------------------------------------------------------- lists

LIST = """
# two terms under one exception, one with its own
within: 5
unless: clinic, sex education
rude word
Vile | unless: villain   # a comment
nasty
脏话
"""


@pytest.mark.parametrize(("text", "action", "detail", "marked"), [
    ("a rude\n WORD, vile", "drop", "“rude word”, “vile”, without an exception within 5 words", ["rude\n WORD", "vile"]),
    ("crude words, vilely nastyx", "keep", "", []),
    ("our clinic says nasty", "review", "“nasty” beside “clinic”", ["clinic", "nasty"]),
    ("nasty, one two three four clinic", "review", "“nasty” beside “clinic”", ["nasty", "clinic"]),
    ("nasty, one two three four five clinic", "drop", "“nasty”, without an exception within 5 words", ["nasty"]),
    ("sex  education nasty", "review", "“nasty” beside “sex education”", ["sex  education", "nasty"]),
    ("vile villain", "review", "“vile” beside “villain”", ["vile", "villain"]),
    ("nasty villain", "drop", "“nasty”, without an exception within 5 words", ["nasty"]),
    ("nasty clinic. a b c d e f g nasty nasty", "drop", "“nasty” 2 times, without an exception within 5 words; “nasty” beside “clinic”", ["nasty", "clinic", "nasty", "nasty"]),
    ("nasty clinic. a b c d e f g rude word", "review", "“rude word”, without an exception within 5 words; “nasty” beside “clinic”", ["nasty", "clinic", "rude word"]),
    ("这是脏话吗", "drop", "“脏话”, without an exception within 5 words", ["脏话"]),
    ("İİİ nasty", "drop", "“nasty”, without an exception within 5 words", ["nasty"]),
])  # fmt: skip
def test_a_term_drops_and_its_exception_goes_to_review(text, action, detail, marked):
    ruling = WordList.parse("mine", LIST).rule(text)
    assert (ruling.action, ruling.detail) == (action, detail.replace("sex education", "sex  education"))
    assert [text[start:end] for start, end in ruling.spans] == marked
    assert ruling.reason == ("" if action == "keep" else "list_mine")


def test_the_shipped_list_has_exceptions_and_a_path_replaces_it(tmp_path):
    explicit = WordList.load("explicit")
    assert explicit.rule("Free porn videos here").action == "drop"
    assert explicit.rule("What teachers say on pornography in sex education").action == "review"
    assert explicit.rule("Popcorn and the Essex orchestra").action == "keep"
    mine = tmp_path / "mine.txt"
    mine.write_text("popcorn\n")
    assert WordList.load(str(mine)).rule("Popcorn!").reason == "list_mine"


@pytest.mark.parametrize(("text", "message"), [
    ("# nothing", "holds no terms"),
    ("a\nb | when: c", "line 2: 'b | when: c' is not a term"),
    ("| unless: c", "line 1"),
    ("within: few", "within takes a number of words"),
    ("x" * 300, "300 characters"),
])  # fmt: skip
def test_a_list_that_cannot_be_read_says_where(text, message):
    with pytest.raises(ConfigError, match=message.replace("|", r"\|")):
        WordList.parse("mine", text)


def test_a_missing_list_names_the_shipped_ones():
    with pytest.raises(ConfigError, match=r"no such file, and none of the shipped ones \(explicit\)"):
        WordList.load("explicti")


# --------------------------------------------------------------------------------------------------- decontamination

ASKED = "Which planet of the sun is the largest and how many moons are known today"  # 15 words
TOLD = "It is Jupiter with 95 moons"
FILLER = "some other words that nobody has ever asked about in a test"


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    folder = tmp_path_factory.mktemp("index")
    write_rows(folder / "exam" / "test.jsonl", [
        {"prompt": [{"role": "system", "content": "You are an assistant that helps everybody who asks for help at any time of day"},
                    {"role": "user", "content": ASKED}], "completion": [{"role": "assistant", "content": TOLD}]},
        {"prompt": [{"role": "user", "content": "Yes or no"}], "completion": [{"role": "assistant", "content": "Yes"}]},
    ])  # fmt: skip
    write_rows(
        folder / "exam" / "train.jsonl", [{"prompt": "not looked at " * 9, "completion": "since there is a test split"}]
    )
    write_rows(folder / "short.jsonl", [{"text": "eight words are enough to be looked for"}])
    report = decontaminate.build([str(folder / "exam"), str(folder / "short.jsonl")], folder / "index.npz")
    return decontaminate.Index.load(folder / "index.npz"), report, folder


def ruled(index, text):
    ruling = index[0].rule(text)
    return ruling.action, [text[start:end] for start, end in ruling.spans]


def test_a_shared_13_gram_drops_whatever_its_case_accents_and_punctuation(index):
    text = f"{FILLER}. WHICH planet — of the “Sún” is: the largest, and how many moons?\nWERE {FILLER}"
    assert ruled(index, text) == ("keep", [])  # which … moons are 12
    text = text.replace("WERE", "ARE")
    assert ruled(index, text) == ("drop", ["WHICH planet — of the “Sún” is: the largest, and how many moons?\nARE"])
    assert index[0].rule(text).detail.startswith(f"shares 13 words in a row with {index[2] / 'exam'}: “WHICH planet")


def test_an_n_gram_may_cross_from_the_question_to_the_answer(index):
    assert ruled(index, "many moons are known today it is Jupiter with 95 moons")[0] == "keep"  # 11 words
    crossing = "largest and how many moons are known today. It is Jupiter with 79"  # numbers are made one
    assert ruled(index, f"x {crossing} y") == ("drop", [crossing])


def test_a_short_text_counts_as_a_whole_and_a_very_short_one_not_at_all(index):
    assert ruled(index, f"{FILLER} eight words are enough to be looked for {FILLER}")[0] == "drop"
    assert ruled(index, "eight words are enough to be looked at")[0] == "keep"
    assert ruled(index, "Yes or no: yes")[0] == "keep"
    exam, short = index[1]["sets"].values()
    # prompt, answer and both together, twice; the answer of 6 words and all three of the second row are short
    assert exam == {"split": "test", "rows": 2, "texts": 6, "short": 4}
    assert short == {"split": "train", "rows": 1, "texts": 1, "short": 0}


def test_what_the_system_says_is_nobodys_test(index):
    text = "You are an assistant that helps everybody who asks for help at any time of day"
    assert ruled(index, text)[0] == "keep"


def test_all_that_is_shared_is_marked_and_its_share_is_the_score(index):
    ruling = index[0].rule(f"{ASKED}. {FILLER}. {ASKED}")
    assert len(ruling.spans) == 2 and ruling.score == pytest.approx(30 / 42)


def test_chinese_characters_are_words(tmp_path):
    write_rows(tmp_path / "rows.jsonl", [{"text": "太阳系中最大的行星是哪一颗它有多少卫星"}])
    decontaminate.build([str(tmp_path / "rows.jsonl")], tmp_path / "i.npz")
    index = decontaminate.Index.load(tmp_path / "i.npz")
    assert index.rule("有人问：太阳系中最大的行星是哪一颗？").action == "drop"
    assert index.rule("太阳系中最小的行星是哪一颗？").action == "keep"


@given(st.text(st.one_of(st.characters(), st.sampled_from("ΑΣς İı .,'’\u00a0\x85\u200b1٣日かé")), max_size=60))
@settings(max_examples=300, deadline=None)
def test_words_are_the_same_one_by_one_as_all_at_once(text):
    """Places are found by simplifying a text's words one by one; that must give what simplifying all of it gives."""
    assert [word for token in text.split() for word in decontaminate.normal(token)] == decontaminate.normal(text)


def test_the_same_sets_give_the_same_index(index, tmp_path):
    sets = [str(index[2] / "exam"), str(index[2] / "short.jsonl")]
    again = decontaminate.build(sets, tmp_path / "i.npz")
    assert again == index[1] and (tmp_path / "i.npz").read_bytes() == (index[2] / "index.npz").read_bytes()


def test_sets_that_cannot_be_used_say_so(tmp_path):
    write_rows(tmp_path / "odd.jsonl", [{"body": "x"}])
    write_rows(tmp_path / "short.jsonl", [{"text": "too short"}])
    with pytest.raises(DataError, match="has the columns body; one of these is needed"):
        decontaminate.build([str(tmp_path / "odd.jsonl")], tmp_path / "i.npz")
    with pytest.raises(DataError, match="no text of 8 words or more"):
        decontaminate.build([str(tmp_path / "short.jsonl")], tmp_path / "i.npz")
    with pytest.raises(DataError, match="has no split dev"):
        decontaminate.build([f"{tmp_path / 'short.jsonl'}#dev"], tmp_path / "i.npz")
    (tmp_path / "i.npz").write_bytes(b"PK not an index")
    with pytest.raises(ConfigError, match="build it again"):
        decontaminate.Index.load(tmp_path / "i.npz")


# -------------------------------------------------------------------------------------------------------- classifier


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A BERT of one layer, trained for a second on ten sentences: those with a dog are not nice."""
    import torch
    from transformers import BertConfig, BertForSequenceClassification

    folder = tmp_path_factory.mktemp("classifier") / "model"
    tokenizer = make_tokenizer()
    torch.manual_seed(0)
    config = BertConfig(vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=1, num_attention_heads=1,
                        intermediate_size=16, max_position_embeddings=32, pad_token_id=tokenizer.pad_token_id,
                        id2label={0: "clean", 1: "Not nice"}, label2id={"clean": 0, "Not nice": 1})  # fmt: skip
    model = BertForSequenceClassification(config)
    train(model, tokenizer)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def train(model, tokenizer):
    """Until the scores are far from one half."""
    import torch

    texts = ["the cat sits on the mat", "the dog sits on the mat", "hello bird", "hello dog", "a cat runs in", "a dog runs in",
             "yes please", "dog dog", "the bird sings on a tree in the house", "the bird sings on a dog in the house"]  # fmt: skip
    labels = torch.tensor([0, 1] * 5)
    batch = tokenizer(texts, padding=True, padding_side="right", return_tensors="pt", return_token_type_ids=False)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    model.train()
    for _ in range(80):
        optimizer.zero_grad()
        loss = model(**batch, labels=labels).loss
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.05, loss.item()


def classifier(path, **settings):
    from align.clean.rules.classifier import Classifier

    return Classifier(str(path), **{"label": "not nice", **settings})


def test_the_unwanted_label_drops_and_says_its_score(checkpoint):
    good, bad = classifier(checkpoint).rule(["the cat sits on the mat", "the dog sits on the mat"])
    assert good.action == "keep" and good.score < 0.2
    assert bad.action == "drop" and bad.score > 0.8 and bad.reason == "classifier_not_nice"
    assert bad.detail.startswith("“Not nice” 0.9") and bad.spans == ((0, 23),)


def test_a_score_in_the_band_goes_to_people(checkpoint):
    both = classifier(checkpoint, threshold=0.5, review=(0.0, 1.0)).rule(["hello bird", "hello dog"])
    assert [ruling.action for ruling in both] == ["review", "review"]
    assert "unsure between 0 and 1" in both[0].detail


def test_the_worst_window_of_a_long_text_decides_and_is_shown(checkpoint):
    text = "the cat sits on the mat. " * 30 + "the dog dog sits. " + "a bird sings in the tree. " * 30
    ruling = classifier(checkpoint).rule([text])[0]
    ((start, end),) = ruling.spans
    assert ruling.action == "drop" and "dog" in text[start:end] and end - start < len(text) / 4


def test_one_text_does_not_cost_another_and_order_is_kept(checkpoint):
    texts = ["the dog sits on the mat", None, "hello bird", "\ud800 hello", "", "a dog runs in"]
    rules = classifier(checkpoint, batch_size=4)
    actions = [ruling and ruling.action for ruling in rules.rule(texts)]
    assert actions[:3] == ["drop", None, "keep"] and actions[4:] == ["keep", "drop"]
    assert rules.failures["TypeError: expected text, got NoneType"] == 1
    alone = [rules.rule([text])[0].score for text in (texts[0], texts[2], texts[5])]
    together = [ruling.score for ruling in rules.rule([texts[0], texts[2], texts[5]])]
    assert together == pytest.approx(alone, abs=1e-5)


def test_a_model_that_fails_on_one_text_rules_on_the_rest_of_its_batch(checkpoint, monkeypatch):
    rules = classifier(checkpoint)
    forward = rules.model.forward
    poison = rules.tokenizer("please", add_special_tokens=False)["input_ids"][0]

    def fails(input_ids, **rest):
        if (input_ids == poison).any():
            raise RuntimeError("no kernel for this one")
        return forward(input_ids=input_ids, **rest)

    monkeypatch.setattr(rules.model, "forward", fails)
    rulings = rules.rule(["hello bird", "please", "hello dog"])
    assert [ruling and ruling.action for ruling in rulings] == ["keep", None, "drop"]
    assert rules.failures == {"RuntimeError: no kernel for this one": 1}
    with pytest.raises(RunError, match="fails on every document: RuntimeError: no kernel"):
        broken = classifier(checkpoint)
        monkeypatch.setattr(broken.model, "forward", fails)
        broken.rule(["please"] * 20)


def test_a_score_that_is_not_a_number_is_a_failure_and_no_ruling(checkpoint):
    import torch

    rules = classifier(checkpoint)
    with torch.no_grad():
        rules.model.classifier.bias.fill_(float("nan"))
    assert rules.rule(["hello bird"]) == [None] and rules.failures == {"ValueError: the score is not a number": 1}


def test_checkpoints_that_cannot_classify_are_refused_before_any_work(checkpoint, world, tmp_path):
    import shutil

    from align.clean.rules.classifier import check

    with pytest.raises(ConfigError, match="has no classification head .it is LlamaForCausalLM."):
        check(str(world / "base"))
    with pytest.raises(ConfigError, match=r"which label is unwanted\? Its labels are clean \(0\), Not nice \(1\)"):
        check(str(checkpoint))
    with pytest.raises(ConfigError, match="there is no label 'toxic'"):
        check(str(checkpoint), "toxic")
    with pytest.raises(ConfigError, match="must hold the threshold 0.9"):
        classifier(checkpoint, threshold=0.9, review=(0.3, 0.7))
    # a head that the configuration names and the weights lack would be random
    headless = tmp_path / "headless"
    shutil.copytree(world / "base", headless)
    config = json.loads((headless / "config.json").read_text())
    (headless / "config.json").write_text(json.dumps({**config, "architectures": ["LlamaForSequenceClassification"]}))
    with pytest.raises(ConfigError, match=r"lacks weights \(score.weight\)"):
        classifier(headless, label="LABEL_1")


def test_a_reward_model_of_one_score_is_read_as_it_is(world):
    one = classifier(world / "rm", label=None, threshold=-1e9).rule(["hello dog"])[0]
    assert one.action == "drop" and one.score < 50


# --------------------------------------------------------------------------------------------------------- decisions


def test_the_last_decision_holds_and_survives_reopening(tmp_path):
    path = tmp_path / "some" / "decisions.jsonl"
    decisions = Decisions(path)
    assert len(decisions) == 0 and decisions.of("a") is None and not path.exists()
    empty = decisions.version
    decisions.add("a", "drop", reviewer="ann", rule="lists", reason="list_mine", note="why", text="Long\n text " * 99)
    decisions.add("b", "keep", reviewer="ann")
    decisions.add("a", "keep", reviewer="bob")
    assert (decisions.of("a"), decisions.of("b")) == ("keep", "keep")
    again = Decisions(path)
    assert again.rows == decisions.rows and again.version == decisions.version != empty
    decisions.undo("a", reviewer="bob")
    decisions.undo("b", reviewer="bob")
    assert decisions.of("a") is None and decisions.version == empty and len(path.read_text().splitlines()) == 5
    first = json.loads(path.read_text().splitlines()[0])
    assert (
        first["rule"] == "lists" and first["note"] == "why" and len(first["text"]) == 200 and "\n" not in first["text"]
    )


def test_the_files_excerpts_show_no_personal_data(tmp_path):
    decisions = Decisions(tmp_path / "d.jsonl")
    decisions.add("a", "drop", reviewer="ann", text="Write to bob@example.com today.")
    decisions.undo("a", reviewer="ann")
    told = [json.loads(line)["text"] for line in decisions.path.read_text().splitlines()]
    assert told == ["Write to •••@•••••••.••• today."] * 2


def test_the_version_is_that_of_what_holds_not_of_the_way_there(tmp_path):
    one, two = Decisions(tmp_path / "1.jsonl"), Decisions(tmp_path / "2.jsonl")
    one.add("a", "drop", reviewer="ann")
    one.add("b", "keep", reviewer="ann")
    two.add("b", "drop", reviewer="bob")
    two.add("b", "keep", reviewer="bob")
    assert one.version != two.version
    two.add("a", "drop", reviewer="bob")
    assert one.version == two.version


@pytest.mark.parametrize("cut", [b'{"id": "c", "decis', b'{"id": "c", "decision": "keep"}', b"\xff\xfe"])
def test_a_line_cut_by_a_kill_is_ignored_and_repaired(tmp_path, cut):
    path = tmp_path / "decisions.jsonl"
    Decisions(path).add("a", "drop", reviewer="ann")
    with path.open("ab") as stream:
        stream.write(cut)
    decisions = Decisions(path)
    whole = b"keep" in cut
    assert decisions.of("a") == "drop" and decisions.of("c") == ("keep" if whole else None)
    decisions.add("b", "keep", reviewer="ann")
    assert [json.loads(line)["id"] for line in path.read_text().splitlines()] == (
        ["a", "c", "b"] if whole else ["a", "b"]
    )
    assert Decisions(path).rows.keys() == decisions.rows.keys()


def test_two_programs_see_each_others_decisions(tmp_path):
    one, two = Decisions(tmp_path / "d.jsonl"), Decisions(tmp_path / "d.jsonl")
    one.add("a", "drop", reviewer="ann")
    two.add("b", "keep", reviewer="bob")  # reads what was added before
    assert two.of("a") == "drop" and one.of("b") is None
    one.refresh()
    assert one.of("b") == "keep"


def test_marks_of_a_merge_are_named_with_their_line(tmp_path):
    path = tmp_path / "d.jsonl"
    Decisions(path).add("a", "drop", reviewer="ann")
    path.write_text(path.read_text() + "<<<<<<< HEAD\n")
    with pytest.raises(RunError, match=r"d.jsonl, line 2: .*a merge left its marks"):
        Decisions(path)


def test_a_full_disk_decides_nothing_and_says_so(tmp_path, monkeypatch):
    path = tmp_path / "d.jsonl"
    decisions = Decisions(path)
    decisions.add("a", "drop", reviewer="ann")
    before = path.read_bytes()

    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(RunError, match="the decision was not saved: .*No space left"):
            decisions.add("b", "keep", reviewer="ann")
    assert path.read_bytes() == before and decisions.of("b") is None
    decisions.add("b", "keep", reviewer="ann")
    assert Decisions(path).of("b") == "keep"


def test_a_write_that_the_system_cuts_leaves_no_half_line(tmp_path):
    """A real limit on the file's size: the kernel takes part of the line, then refuses."""
    code = f"""
import resource
from align.clean.review.decisions import Decisions
from align.run.record import RunError
held = Decisions({str(tmp_path / "d.jsonl")!r})
held.add("a", "drop", reviewer="ann")
resource.setrlimit(resource.RLIMIT_FSIZE, (held.path.stat().st_size + 20,) * 2)
try:
    held.add("b", "keep", reviewer="ann")
except RunError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "the decision was not saved" in done.stdout and "File too large" in done.stdout
    assert len((tmp_path / "d.jsonl").read_bytes().splitlines()) == 1


def test_a_locked_file_is_waited_for_and_then_named(tmp_path, monkeypatch):
    import fcntl

    monkeypatch.setattr("align.clean.review.decisions.PATIENCE", 0.1)
    decisions = Decisions(tmp_path / "d.jsonl")
    decisions.add("a", "drop", reviewer="ann")
    with (tmp_path / "d.jsonl").open("ab") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(RunError, match="is locked by another program"):
            decisions.add("b", "keep", reviewer="ann")
    decisions.add("b", "keep", reviewer="ann")
    assert decisions.of("b") == "keep"


def test_a_folder_in_the_files_place_is_an_error_for_users(tmp_path):
    with pytest.raises(RunError, match="cannot be read"):
        Decisions(tmp_path)
