"""Generates docs/limits.md from the program's settings and constants: `make descriptions`.

Each bound names the tests that try it at the bound and beyond; tests/test_limits_page.py checks that they exist.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from ptn_api.process.settings import SETTINGS

__all__ = ["SECTIONS", "Bound", "limits"]


class Bound(NamedTuple):
    """A row of the page.

    `source` is a setting's name, or `module:NAME` of a constant, or a text in parentheses. `tests` are
    `folder/test_file.py::test_name`, which the page does not show.
    """

    what: str
    source: str
    beyond: str
    seen_in: str
    tests: tuple[str, ...]
    unit: str = ""
    """`bytes`, `ms` or `s`, where the source is a constant."""

    @property
    def default(self) -> str:
        if self.source.startswith("("):
            return self.source.strip("()")
        if self.source in SETTINGS:
            setting = SETTINGS[self.source]
            value, unit = setting.default, {"MS": "ms", "BYTES": "bytes"}.get(setting.unit, "")
        else:
            value, unit = _constant(self.source), self.unit
        return _readable(value, unit)

    @property
    def setting(self) -> str:
        if self.source in SETTINGS:
            setting = SETTINGS[self.source]
            return f"[`{setting.flag}`](settings.md#{setting.section.lower()})"
        return "" if self.source.startswith("(") else "constant"


def _constant(source: str) -> Any:
    module, _, names = source.partition(":")
    value: Any = importlib.import_module(module)
    for name in names.split("."):
        defaults = getattr(value, "__struct_defaults__", None)
        if defaults is None:
            value = getattr(value, name)
        else:
            fields = value.__struct_fields__
            value = dict(zip(fields[len(fields) - len(defaults) :], defaults, strict=True))[name]
    return value


def _readable(value: Any, unit: str) -> str:
    value, unit = (round(value * 1000), "ms") if unit == "s" else (value, unit)
    sizes = {
        "bytes": {"GiB": 1 << 30, "MiB": 1 << 20, "KiB": 1 << 10, "bytes": 1},
        "ms": {"days": 86_400_000, "h": 3_600_000, "min": 60_000, "s": 1_000, "ms": 1},
    }.get(unit, {"": 1})
    if not value:
        return "none"
    name, size = next((name, size) for name, size in sizes.items() if value % size == 0)
    return f"{value // size:,} {name}".strip()


LIMITED = 'ptn_rate_limited_total{limit="%s"}'
REFUSED = 'ptn_rest_refused_total{cause="%s"}'
CLOSED = 'ptn_stream_closed_total{code="%s"}'
BAD_LOGIN = 'ptn_stream_bad_logins_total{reason="%s"}'
_LIMITS = "ptn_api.http.request:Limits"

# fmt: off
# ruff: noqa: E501 - one text a line
SECTIONS: dict[str, tuple[Bound, ...]] = {
    "Connections": (
        Bound("REST connections", "max_rest_connections",
            "If a quarter is idle and without a valid key, the one of these that is idle longest is closed, else one of the user with the most. If all of those are busy: one without a key, then the newest one of the user with the most, or else the new one",
            f"{LIMITED % 'connections'}, problem connections_at_limit",
            ("http/test_connection_limit.py::test_the_connection_that_is_idle_longest_is_evicted", "http/test_connection_limit.py::test_if_all_are_busy_an_evictable_one_is_evicted", "http/test_connection_limit.py::test_if_all_are_busy_with_users_the_greatest_gives_way", "http/test_connection_limit.py::test_evictions_are_a_problem")),
        Bound("WebSocket connections without a login", "max_waiting_connections",
            "The oldest is closed. Clients that are logged in stay",
            f"{LIMITED % 'waiting_connections'}, problem connections_at_limit",
            ("stream/test_connection_limit.py::test_the_limit_itself_evicts_nobody_and_one_more_the_oldest", "stream/test_connection_limit.py::test_silent_connections_evict_each_other")),
        Bound("each of these two", "(half of the open files allowed)",
            "The limit is lowered to that at the start", "process_max_fds",
            ("http/test_connection_limit.py::test_half_of_the_files_remain",)),
        Bound("all connections of a process, with TLS handshakes", "(the open files allowed, less those in use and a reserve of 16 to 256)",
            "The oldest TLS handshake is ended, or a connection evicted as above. Otherwise new ones wait",
            'ptn_tls_handshakes_failed_total{outcome="evicted"}, ptn_accept_paused_seconds_total, problem accept_paused',
            ("http/test_acceptor.py::test_connections_beyond_the_limit_wait_for_others_to_close", "http/test_acceptor.py::test_unfinished_handshakes_count_and_evict_each_other", "hostile/test_open_files.py::test_connections_never_take_the_last_file")),
        Bound("WebSocket connections and event streams of a user below tier 200", "max_connections_per_key",
            "The user's oldest is closed: a WebSocket with 4004", "ptn_stream_evictions_total, ptn_rest_event_evictions_total",
            ("rest/test_event_stream.py::test_the_sixth_connection_of_a_user_evicts_the_oldest_of_either_kind", "stream/test_logins.py::test_the_sixth_connection_of_a_key_evicts_the_oldest", "stream/test_presence.py::test_the_oldest_connection_is_evicted_wherever_it_is", "stream/test_limits.py::test_a_keys_own_connection_limit_applies_and_changes_without_a_reconnect")),
        Bound("large downloads of a user at a time", "max_downloads_per_user",
            "Further ones wait", 'ptn_rest_refused_total{cause="too_many_downloads"} once too many wait',
            ("http/test_connection_limit.py::test_an_owners_downloads_wait_their_turn",)),
        Bound("large downloads of a user that wait", "ptn_api.rest.options:RestOptions.waiting_downloads",
            "503 `too_many_downloads` with Retry-After", REFUSED % "too_many_downloads",
            ("http/test_connection_limit.py::test_an_owners_downloads_wait_their_turn",)),
        Bound("time for which each waits", "ptn_api.rest.options:RestOptions.download_wait_ms",
            "503 `too_many_downloads` with Retry-After", REFUSED % "too_many_downloads",
            ("http/test_connection_limit.py::test_a_download_waits_for_a_limited_time",), unit="ms"),
    ),
    "Rates": (
        Bound("new connections of an address, per minute", "connects_per_minute",
            "REST: 429 `too_many_connections`, then closed. WebSocket: closed with 4006", LIMITED % "connects",
            ("rest/test_auth.py::test_too_many_connections_of_an_address_are_rejected", "stream/test_limits.py::test_too_many_connects_from_an_address_are_closed_with_come_back", "stream/test_presence.py::test_connects_of_an_address_count_together")),
        Bound("failed logins of an address, per minute", "failed_logins_per_minute",
            "REST: 429. WebSocket: closed with 4006. Also with a valid key, unless it has logged in from there before", LIMITED % "failed_logins",
            ("rest/test_auth.py::test_failed_logins_block_an_address_but_not_its_neighbours", "stream/test_limits.py::test_an_address_that_guesses_keys_must_wait", "stream/test_presence.py::test_failed_logins_of_an_address_count_together", "access/test_limits.py::test_after_too_many_failures_an_address_waits_even_with_a_valid_key")),
        Bound("addresses and users whose rates are remembered", "ptn_api.access.limits:MOST_NAMES",
            "The one that was seen least recently is forgotten: its quota is full again", "",
            ("access/test_limits.py::test_memory_is_bounded", "access/test_limits.py::test_the_known_keys_of_addresses_are_bounded")),
        Bound("requests of a user, per minute", "requests_per_minute",
            "429 `too_many_requests` with Retry-After", LIMITED % "requests",
            ("rest/test_auth.py::test_too_many_requests_are_rejected_until_retry_after", "access/test_limits.py::test_a_minutes_quota_may_be_used_at_once")),
        Bound("frames of a WebSocket client, per minute", "frames_per_minute",
            "Closed with 4006. Pings and fragments count, and every full 4 KiB of a message as another frame", LIMITED % "frames",
            ("stream/test_limits.py::test_too_many_frames_close_their_connection_only", "stream/test_limits.py::test_a_large_filter_costs_as_much_as_many_frames")),
        Bound("WebSocket logins per second", "accepts_per_second",
            "The login waits for its turn", LIMITED % "waiting_logins" + " once too many wait",
            ("stream/test_logins.py::test_the_pacer_admits_a_burst_and_then_a_constant_rate", "stream/test_logins.py::test_logins_beyond_the_rate_wait_their_turn_and_all_succeed")),
        Bound("logins of a user that wait", "ptn_api.fanout.logins:MOST_WAITING",
            "Closed with 4006. A user with more connections than this may have as many logins wait", LIMITED % "waiting_logins",
            ("stream/test_logins.py::test_at_most_ten_logins_of_a_user_wait", "stream/test_logins.py::test_logins_of_a_user_without_a_connection_limit_all_wait")),
        Bound("evictions among a user's connections, within a minute", "ptn_api.fanout.logins:EVICTIONS",
            "The user's next logins wait for `--eviction-delay-ms`, doubled each time, up to 12 times that", "ptn_stream_evictions_total",
            ("stream/test_logins.py::test_connections_that_evict_each_other_wait_longer_each_time", "stream/test_logins.py::test_a_login_after_mutual_evictions_is_delayed_not_refused")),
    ),
    "REST requests": (
        Bound("target (path with query)", f"{_LIMITS}.target_bytes", "414 `uri_too_long`, then closed", REFUSED % "uri_too_long",
            ("http/test_request.py::test_a_target_up_to_the_limit_is_accepted",), unit="bytes"),
        Bound("headers, in bytes", f"{_LIMITS}.head_bytes", "431 `headers_too_large`, then closed", REFUSED % "headers_too_large",
            ("http/test_request.py::test_headers_up_to_the_limits_are_accepted", "http/test_request.py::test_trailers_and_chunk_extensions_are_bounded"), unit="bytes"),
        Bound("headers, in number", "ptn_api.http.request:MAX_HEADERS", "431 `headers_too_large`, then closed", REFUSED % "headers_too_large",
            ("http/test_request.py::test_headers_up_to_the_limits_are_accepted",)),
        Bound("body", "ptn_api.http.request:BODY_LIMIT", "Not read, so a key in it counts as absent; closed after the response",
            'ptn_rest_requests_total{status="401"}',
            ("http/test_request.py::test_a_body_is_read_up_to_the_limit", "http/test_request.py::test_a_chunked_body_is_read_up_to_the_limit"), unit="bytes"),
        Bound("pipelined requests that wait", "ptn_api.http.request:MAX_QUEUED", "400 `bad_request` after those, then closed", REFUSED % "bad_request",
            ("http/test_request.py::test_pipelined_requests_up_to_the_limit_are_queued", "http/test_connection.py::test_the_queue_of_pipelined_requests_is_bounded")),
        Bound("time for a request with its body, and for a TLS handshake", "header_timeout_ms", "408 `request_timeout`, then closed; without a byte, only closed",
            f"{REFUSED % 'request_timeout'}, " + 'ptn_tls_handshakes_failed_total{outcome="failed"}',
            ("http/test_connection.py::test_a_request_must_come_in_time", "http/test_connection.py::test_dripping_headers_do_not_extend_the_time", "system/test_tls.py::test_a_connection_that_never_greets_is_dropped")),
        Bound("time between requests", "ptn_api.http.connection:_KEEP_ALIVE_S", "Closed", "ptn_rest_connections",
            ("http/test_connection.py::test_an_idle_connection_is_closed",), unit="s"),
        Bound("input after an error, in time", "ptn_api.http.connection:_LINGER_S", "Closed; until then it is discarded", "ptn_rest_connections",
            ("http/test_connection.py::test_a_client_that_sends_on_and_on_is_disconnected",), unit="s"),
        Bound("input after an error, in bytes", "ptn_api.http.connection:_LINGER_BYTES", "Closed; until then it is discarded", "ptn_rest_connections",
            ("http/test_connection.py::test_a_client_that_sends_on_and_on_is_disconnected", "http/test_connection.py::test_input_after_the_last_request_is_bounded"), unit="bytes"),
        Bound("speed of a download, in bytes per second", "minimum_rate", "A client that stays below it is disconnected", REFUSED % "slow_download",
            ("http/test_connection.py::test_a_client_that_stops_reading_is_disconnected", "http/test_connection.py::test_a_client_that_reads_slowly_but_steadily_gets_all")),
        Bound("`limit` of `/messages`", "ptn_api.rest.messages:_MAX_SCANNED", "400 `bad_parameter`", 'ptn_rest_requests_total{status="400"}',
            ("rest/test_app.py::test_malformed_parameters", "rest/test_messages.py::test_a_response_of_too_many_bytes_ends_early")),
        Bound("bytes of a response of `/messages`", "ptn_api.rest.messages:_MAX_BYTES", "It ends early; `next` is where to continue", 'ptn_rest_sent_bytes_total{route="/messages"}',
            ("rest/test_messages.py::test_a_response_of_too_many_bytes_ends_early",), unit="bytes"),
    ),
    "Expensive REST requests": (
        Bound("in progress (filters, changes, messages, checkpoint)", "heavy_requests", "Further ones wait", 'ptn_rest_heavy_requests_total{outcome="queued"}',
            ("rest/test_turns.py::test_all_users_together_are_limited", "rest/test_turns.py::test_users_are_granted_slots_in_turn")),
        Bound("in progress, of a user", "heavy_requests_per_user", "Further ones wait", 'ptn_rest_heavy_requests_total{outcome="queued"}',
            ("rest/test_turns.py::test_a_user_has_so_many_slots_at_most", "rest/test_turns.py::test_waiting_and_refused_requests_are_counted_by_route")),
        Bound("waiting", "heavy_waiting", "503 `busy` with Retry-After", 'ptn_rest_heavy_requests_total{outcome="refused"}, problem work_refused',
            ("rest/test_turns.py::test_all_users_together_are_limited",)),
        Bound("waiting, of a user", "heavy_waiting_per_user", "503 `busy` with Retry-After", 'ptn_rest_heavy_requests_total{outcome="refused"}, problem work_refused',
            ("rest/test_turns.py::test_too_many_requests_of_a_user_are_refused", "rest/test_turns.py::test_waiting_and_refused_requests_are_counted_by_route")),
        Bound("time for which each waits", "ptn_api.rest.options:RestOptions.heavy_wait_ms", "503 `busy` with Retry-After", 'ptn_rest_heavy_requests_total{outcome="refused"}, problem work_refused',
            ("rest/test_turns.py::test_a_place_is_awaited_for_a_limited_time", "rest/test_turns.py::test_a_request_that_waits_too_long_gets_a_503"), unit="ms"),
        Bound("the same for a user without any in progress, while others have all", "ptn_api.rest.options:RestOptions.heavy_yield_ms", "The newest one of the user with the most in progress is ended: its connection is closed", 'ptn_rest_heavy_requests_total{outcome="ended"}',
            ("rest/test_turns.py::test_the_user_with_the_most_places_gives_way", "rest/test_turns.py::test_users_who_read_slowly_keep_no_other_user_out"), unit="ms"),
    ),
    "WebSocket": (
        Bound("handshake", "ptn_api.stream.handshake:HEAD_BYTES", "431, then closed", 'ptn_stream_refused_handshakes_total{cause="431"}',
            ("stream/test_handshake.py::test_a_handshake_up_to_the_limit_is_read", "stream/test_hostile.py::test_a_malformed_handshake_gets_a_short_error"), unit="bytes"),
        Bound("time for each of TLS handshake, handshake and login", "auth_timeout_ms", "The connection is closed: with 4003 after the handshake",
            'ptn_tls_handshakes_failed_total{outcome="failed"}, ptn_stream_refused_handshakes_total{cause="timeout"}, ' + CLOSED % 4003,
            ("stream/test_server.py::test_a_connection_without_a_login_is_closed_with_come_back", "stream/test_hostile.py::test_a_handshake_must_come_in_time", "hostile/test_floods.py::test_a_slow_loris_is_disconnected")),
        Bound("a message, inflated and with all fragments", "ptn_api.wire.client_frames:SMALL_FRAME_BYTES", "Closed with 1009; before the login it counts as a failed one", f"{CLOSED % 1009}, {BAD_LOGIN % 'too_big'}",
            ("stream/test_limits.py::test_messages_up_to_their_limits_are_read", "stream/test_framing.py::test_the_limit_holds_for_all_fragments_together", "stream/test_framing.py::test_one_byte_too_many_is_too_big"), unit="bytes"),
        Bound("a subscribe of version 2", "message_limit_bytes", "Closed with 1009", CLOSED % 1009,
            ("stream/test_limits.py::test_messages_up_to_their_limits_are_read", "stream/test_server.py::test_a_message_that_is_too_big_closes_with_1009")),
        Bound("names in a filter", "ptn_api.wire.client_frames:MOST_NAMES", "Error frame `bad_frame`; the subscription stays as it was", 'ptn_stream_errors_total{code="bad_frame"}',
            ("wire/test_server_session.py::test_a_filter_has_at_most_2048_names",)),
        Bound("characters of such a name", "ptn_api.wire.client_frames:LONGEST_NAME", "Error frame `bad_frame`", 'ptn_stream_errors_total{code="bad_frame"}',
            ("wire/test_server_session.py::test_a_filter_has_at_most_2048_names", "wire/test_server_session.py::test_a_name_of_the_greatest_length_is_accepted")),
        Bound("a client's own time that is echoed", "ptn_api.wire.client_frames:_ECHOED_BYTES", "0 is echoed instead", "",
            ("wire/test_server_session.py::test_a_ping_is_answered_with_its_time_or_0",), unit="bytes"),
        Bound("messages that wait for the login's check, or for a log that cannot be read", "ptn_api.wire.server_session:MAX_WAITING_FRAMES", "Closed with 4006", CLOSED % 4006,
            ("wire/test_server_session.py::test_frames_that_wait_for_the_key_check_are_bounded", "wire/test_server_session.py::test_frames_that_wait_for_the_log_are_bounded")),
        Bound("unsent bytes of a client", "send_buffer_bytes", "Closed (a WebSocket with 4001): it can resume", "ptn_stream_slow_closes_total, ptn_rest_event_slow_closes_total, problem clients_too_slow",
            ("rest/test_event_stream.py::test_a_reader_that_is_too_slow_is_ended", "stream/test_limits.py::test_unsent_bytes_up_to_the_limit_are_kept", "stream/test_catch_up.py::test_slow_clients_of_several_users_are_a_problem")),
        Bound("time in which a replay's client reads nothing", "ptn_api.fanout.options:StreamOptions.replay_stall_ms", "Closed with 4001: it can resume", "ptn_stream_slow_closes_total, problem clients_too_slow",
            ("stream/test_catch_up.py::test_a_replay_waits_for_its_client_and_is_given_up_after_a_stall",), unit="ms"),
        Bound("orders in a frame `batch`", "ptn_api.stream.framing:BATCH_MESSAGES", "Another frame begins", "ptn_stream_deliveries_total",
            ("stream/test_catch_up.py::test_a_burst_is_sent_in_batches_of_bounded_size", "stream/test_encoding.py::test_packing_keeps_every_message_in_order_within_the_bounds")),
        Bound("bytes of a frame `batch`", "ptn_api.stream.framing:BATCH_BYTES", "Another frame begins; a larger order has a frame to itself", "ptn_stream_sent_bytes_total",
            ("stream/test_catch_up.py::test_a_burst_is_sent_in_batches_of_bounded_size", "stream/test_encoding.py::test_packing_keeps_every_message_in_order_within_the_bounds"), unit="bytes"),
        Bound("age of the first missed order, for a replay to version 1", "replay_window_ms", "Nothing is replayed; live orders follow", "ptn_stream_replays_total",
            ("wire/test_server_session.py::test_version_1_is_replayed_what_is_available_and_recent",)),
        Bound("time for reading the close frame, or a refusal", "unread_close_ms", "The connection is aborted", "ptn_stream_closed_total",
            ("stream/test_hostile.py::test_the_server_ends_every_refused_connection_by_itself",)),
    ),
    "Memory": (
        Bound("the processes together", "(the cgroup's limit: `MemoryMax=` or `MemoryHigh=` of the unit, `--memory` of a container)", "At 90 %: problem memory_near_limit. At 100 %, the system ends a process, which is restarted",
            'ptn_memory_used_bytes{limit="cgroup"}, problem memory_near_limit',
            ("process/test_memory.py::test_the_cgroup_that_is_nearest_to_its_limit_counts", "process/test_memory.py::test_a_cgroup_of_version_1", "process/test_memory.py::test_the_problem_begins_at_nine_tenths_and_ends_below_85_hundredths")),
        Bound("the address space of a process", "(`ulimit -v`, `LimitAS=`)", "At 90 %: problem memory_near_limit. At 100 %, allocations fail",
            'ptn_memory_used_bytes{limit="address_space"}, problem memory_near_limit',
            ("process/test_memory.py::test_the_setting_counts_all_processes_and_the_address_space_each", "system/test_problems.py::test_a_problem_is_seen_everywhere_and_then_gone")),
        Bound("resident memory of all processes", "memory_limit_bytes", "At 90 %: problem memory_near_limit, and nothing else",
            'ptn_memory_used_bytes{limit="setting"}, problem memory_near_limit',
            ("process/test_memory.py::test_the_setting_counts_all_processes_and_the_address_space_each", "process/test_memory.py::test_the_problem_begins_at_nine_tenths_and_ends_below_85_hundredths")),
        Bound("unread messages of a process to another", "ptn_api.process.control:_UNSENT_BYTES", "Further ones are dropped; all are repeated", "ptn_process_up",
            ("process/test_control.py::test_a_reader_that_hangs_gets_no_more_than_fits",), unit="bytes"),
        Bound("characters kept of a client's address", "ptn_api.access.address:LONGEST_ADDRESS", "The proxy's own address counts", "",
            ("access/test_address.py::test_an_address_up_to_the_limit_is_read", "access/test_address.py::test_nothing_long_is_kept_of_a_header")),
    ),
    "The validator's files, the queue, the key file": (
        Bound("a position's file", "ptn_api.intake.options:IntakeSettings.position_limit_bytes", "Skipped; the last good state stays", "ptn_source_invalid_files, problem files_refused",
            ("intake/test_files.py::test_a_file_up_to_the_limit_is_read", "intake/test_follow.py::test_a_file_over_the_limit_is_skipped"), unit="bytes"),
        Bound("malformed orders of a position", "ptn_api.model.position:_MOST_MALFORMED_ORDERS", "Up to this number they are left out; beyond it the file is skipped", "ptn_source_invalid_files, problem files_refused",
            ("model/test_position.py::test_a_position_of_malformed_orders_is_refused_early",)),
        Bound("a document, inflated", "ptn_api.intake.options:IntakeSettings.document_limit_bytes", "Skipped; the last good one stays", "problem documents_refused",
            ("intake/test_files.py::test_a_file_up_to_the_limit_is_read", "intake/test_documents.py::test_inflated_content_up_to_the_limit_is_read"), unit="bytes"),
        Bound("characters of a hotkey or uuid as a file name", "ptn_api.intake.files:LONGEST_NAME", "Skipped", "ptn_source_invalid_files, problem files_refused",
            ("intake/test_files.py::test_ordinary_names_pass", "intake/test_files.py::test_unsafe_names_are_refused")),
        Bound("snapshots of a miner", "ptn_api.intake.miner_files:KEPT_SNAPSHOTS", "Older ones are left out", "",
            ("intake/test_miner_files.py::test_a_long_file_is_read_from_its_end",)),
        Bound("a snapshot", "ptn_api.intake.miner_files:_LINE_BYTES", "Left out", "",
            ("intake/test_miner_files.py::test_a_snapshot_up_to_the_limit_is_read",), unit="bytes"),
        Bound("an item of the embedding validator's queue", "ptn_api.intake.options:IntakeSettings.queue_line_limit_bytes", "Dropped", "ptn_queue_items_refused_total, problem queue_items_refused",
            ("intake/test_queue.py::test_an_item_up_to_the_limit_is_read", "intake/test_queue.py::test_an_item_that_is_too_long_is_counted"), unit="bytes"),
        Bound("changes that wait for the log", "ptn_api.intake.merge:_MAX_PENDING", "The queue is read no further until the log has caught up", "ptn_log_append_seconds, problem log_unwritable",
            ("intake/test_merge.py::test_the_queue_waits_while_too_many_changes_are_pending",)),
        Bound("orders processed to rebuild the positions of one file's new orders", "ptn_api.event_log.announcements:_MAX_REBUILT_ORDERS", "Their messages have the position's values of the file", "",
            ("event_log/test_announcements.py::test_positions_are_rebuilt_up_to_a_limit_of_orders",)),
        Bound("positions that vanish at once", "ptn_api.intake.options:IntakeSettings.mass_removal_count", "If they are more than 5 % as well, they stay until `ptn resync --accept-removals`", "ptn_source_stale, problem mass_removal",
            ("intake/test_removal.py::test_a_mass_removal_needs_share_and_count", "intake/test_removal.py::test_a_mass_removal_is_held_back_while_orders_go_on",)),
        Bound("the key file", "ptn_api.access.key_file:MAX_BYTES", "The last good keys stay valid", 'ptn_key_reloads_total{result="failed"}, problem key_file_unreadable',
            ("access/test_key_file.py::test_a_file_up_to_the_limit_is_read",), unit="bytes"),
    ),
    "A log that several machines share": (
        Bound("the keys that machines share, compressed", "ptn_api.cluster.broker:PART_BYTES", "`ptn keys` refuses the edit", "",
            ("cluster/test_key_copy.py::test_too_many_keys_are_refused",), unit="bytes"),
        Bound("messages about users that wait to be sent to other machines", "ptn_api.cluster.presence:MOST_UNSENT",
            "New ones are dropped; the table that is repeated makes up for them", "",
            ("cluster/test_presence.py::test_unsent_messages_are_bounded",)),
        Bound("time for which a client with a newer cursor waits for this machine's copy", "ptn_api.rest.options:RestOptions.behind_wait_ms", "REST: 503 `behind` with Retry-After. WebSocket: closed with 4007",
            f'ptn_rest_requests_total{{status="503"}}, {CLOSED % 4007}',
            ("wire/test_server_session.py::test_a_cursor_above_the_head_waits_for_a_log_that_is_behind",), unit="ms"),
    ),
    "The data directory": (
        Bound("age of events", "retention_ms", "Pruned: a client that resumes from before is told of a gap", "ptn_log_pruned_events_total",
            ("event_log/test_contract.py::test_pruning_by_age_moves_the_floor",)),
        Bound("size of events", "retention_bytes", "The oldest are pruned", "ptn_log_pruned_events_total, ptn_log_size_bytes",
            ("event_log/test_contract.py::test_pruning_by_size_keeps_the_newest",)),
        Bound("days of usage", "ptn_api.access.usage:KEPT_DAYS", "Older ones are deleted", "",
            ("access/test_usage.py::test_the_file_is_bounded",)),
    ),
    "Processes": (
        Bound("time without a sign of life", "process_silent_ms", "Problem process_down", "ptn_process_up, problem process_down",
            ("process/test_control.py::test_health_lapses_with_the_reports", "process/test_control.py::test_a_worker_reports_that_it_lives_until_it_hangs")),
        Bound("time for stopping", "stop_timeout_ms", "Killed; responses in progress get 80 % of it", "",
            ("process/test_child.py::test_a_process_that_ignores_the_stop_is_killed", "http/test_connection.py::test_a_client_that_does_not_read_delays_stopping_until_the_timeout")),
        Bound("pause before a restart", "restart_backoff_max_ms", "It doubles with each crash, up to this", "ptn_process_restarts_total, problem process_restarting",
            ("process/test_child.py::test_restarts_back_off_until_a_run_lasts",)),
    ),
}
# fmt: on


def limits() -> str:
    """The whole page."""
    return "\n".join(_page()) + "\n"


def _page() -> Iterator[str]:
    yield "# Limits"
    yield "\nGenerated from the program's settings and constants by `make descriptions`; do not edit.\n"
    yield "What the server takes at most, what it does beyond that, and where you see it. A setting can be given"
    yield "as a flag or an environment variable ([settings.md](settings.md)); a constant is part of the"
    yield "program. A user's entry in the [key file](operators.md#keys) can override `--requests-per-minute` and"
    yield "`--max-connections-per-key`. Loopback addresses are exempt from limits per address. REST"
    yield "and the processes of the stream count a user's connections to the stream together. Several processes of the"
    yield "stream count WebSocket limits per user and per address together, all others by process.\n"
    yield "A [problem](troubleshooting.md) is in `/health`, in heartbeats, in the metric `ptn_problem`, in `ptn doctor`"
    yield "and, at most once a minute, in the log. Individual refusals are not logged: the"
    yield "[metrics](reference.md#metrics) count them by cause. After a [close code](reference.md#close-codes) below 4100,"
    yield "clients reconnect.\n"
    for section, bounds in SECTIONS.items():
        yield f"## {section}\n"
        yield "| Bound | Default | Setting | Beyond it | Seen in |\n|---|---|---|---|---|"
        for bound in bounds:
            seen_in = ", ".join(_linked(name) for name in bound.seen_in.split(", ") if name)
            yield f"| {bound.what} | {bound.default} | {bound.setting} | {bound.beyond} | {seen_in} |"
        yield ""
    yield "Where no metric is named, nothing is refused: the text says what happens instead."


def _linked(name: str) -> str:
    if name.startswith("problem "):
        code = name.removeprefix("problem ")
        return f"problem [`{code}`](troubleshooting.md#{code})"
    metric, _, rest = name.partition(" ")
    return f"`{metric}`{f' {rest}' if rest else ''}"


if __name__ == "__main__":
    Path(__file__).with_name("limits.md").write_text(limits())
