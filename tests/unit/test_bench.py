"""The frame of the measurements: medians of ratios, aims, and what counts as missed. No test here looks at a clock."""

from __future__ import annotations

import datetime
import io
import itertools

import pytest

from bench import caldav_server, h2load
from bench.figures import BenchError, Figure, Sheet, of_samples, percentile, quartiles, ratio
from bench.server import ECHO, Echo, echo_request
from bench.stage import booking_requests, varied
from calendars.v1 import calendar_service_pb2 as pb

BASE = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)


def test_a_ratio_is_the_median_of_the_rounds_ratios() -> None:
    # The ratio of the medians would be 3 / 3 = 1.
    figure = ratio("x", [(3.0, 1.0), (1.0, 4.0), (6.0, 3.0)])
    assert figure.value == 2.0
    assert figure.rounds == 3


def test_noise_that_meets_one_whole_round_leaves_the_ratio_alone() -> None:
    assert ratio("x", [(3.0, 2.0), (300.0, 200.0), (30.0, 20.0)]).value == 1.5


def test_the_spread_is_the_middle_half() -> None:
    assert quartiles([1.0, 2.0, 3.0, 4.0, 100.0]) == (2.0, 4.0)
    assert quartiles([7.0]) == (7.0, 7.0)
    figure = of_samples("x", [5.0, 1.0, 3.0, 4.0, 2.0], unit="s")
    assert (figure.low, figure.value, figure.high) == (2.0, 3.0, 4.0)


@pytest.mark.parametrize(
    ("value", "at_least", "held"),
    [(1.49, False, True), (1.5, False, True), (1.51, False, False), (1.49, True, False), (1.5, True, True)],
)
def test_an_aim_is_held_on_its_good_side(value: float, at_least: bool, held: bool) -> None:
    assert Figure("x", value, aim=1.5, at_least=at_least).held is held


def test_what_was_not_measured_is_missed() -> None:
    assert not Figure("x", None, aim=1.5).held
    assert not Figure("x", None, aim=1.5, at_least=True).held
    assert Figure("x", 9.0).held


def test_no_rounds_are_no_figure() -> None:
    with pytest.raises(BenchError):
        ratio("x", [])
    with pytest.raises(BenchError):
        percentile([], 0.5)


def test_percentiles_are_values_that_were_measured() -> None:
    hundred = [float(n) for n in range(100, 0, -1)]
    assert percentile(hundred, 0.5) == 50.0
    assert percentile(hundred, 0.99) == 99.0
    assert percentile(hundred, 1.0) == 100.0
    assert percentile([4.0], 0.99) == 4.0


def test_a_sheet_tells_what_missed_and_gives_the_numbers() -> None:
    out = io.StringIO()
    sheet = Sheet(out)
    sheet.add(Figure("good", 1.0, aim=1.5))
    sheet.add(Figure("bad", 2.0, aim=1.5, low=1.9, high=2.1, note="why"))
    assert [figure.what for figure in sheet.missed] == ["bad"]
    first, second, note = out.getvalue().splitlines()
    assert "MISSED" not in first
    assert "2.00 ×" in second
    assert "(1.90–2.10)" in second
    assert second.endswith("MISSED")
    assert note.strip() == "why"
    assert [number["held"] for number in sheet.numbers()] == [True, False]


def test_an_echo_answers_as_many_bytes_as_it_is_asked_for_and_its_request_is_as_long() -> None:
    class Details:
        method = ECHO

    handler = Echo().service(Details())
    request = echo_request(700, like=b"r" * 150)
    assert handler is not None
    assert len(request) == 150
    assert len(handler.response_serializer(handler.unary_unary(handler.request_deserializer(request), None))) == 700


def test_an_echo_leaves_all_other_methods_to_the_service() -> None:
    class Details:
        method = "/calendars.v1.CalendarService/GetBusy"

    assert Echo().service(Details()) is None


def test_varied_windows_are_all_different() -> None:
    requests = varied(["cal_1"], BASE, 7, count=500)
    assert len(set(requests)) == 500


def test_a_numbered_booking_keeps_its_length() -> None:
    (request,) = booking_requests(["cal_1"], BASE)
    numbered = request.replace(b"0000000000", b"0000000042")
    assert pb.SyncBookingRequest.FromString(numbered).booking.id == "bench-0000000042"


def test_ten_calendars_have_244_events_in_sixty_days_and_never_overlap() -> None:
    starts = []
    for number in range(10):
        texts = caldav_server.texts("slots", number, BASE)
        assert len(texts) == 100
        for text in texts.values():
            stamp = text.partition("DTSTART:")[2].partition("\r\n")[0]
            starts.append(datetime.datetime.strptime(stamp, caldav_server.STAMP).replace(tzinfo=datetime.UTC))
    starts.sort()
    hour = datetime.timedelta(hours=1)
    assert all(later - earlier > hour for earlier, later in itertools.pairwise(starts))
    assert sum(start < BASE + datetime.timedelta(days=60) for start in starts) == 244


def test_what_h2load_prints_is_read_and_its_failures_are_not_a_figure() -> None:
    told = (
        "finished in 1.00s, 5120.00 req/s, 300KB/s\n"
        "requests: 5120 total, 5136 started, 5120 done, {} succeeded, {} failed, 0 errored, 0 timeout\n"
    )
    assert h2load.parsed(told.format(5120, 0)) == 5120.0
    with pytest.raises(BenchError):
        h2load.parsed(told.format(5119, 1))
    with pytest.raises(BenchError):
        h2load.parsed("h2load: command line error")
