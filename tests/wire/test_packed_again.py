"""Tests of split rings that have to hold of packed ones just as well: the same functions, over a
bench whose guest and back-end have packed rings of an odd size."""

import pytest
import test_hostile_memory
import test_modest_peers
import test_refusals
import test_sessions
import test_switch
import test_switch_faults
from svqwire import message as wire
from svqwire.backend import FEATURES
from svqwire.bench import TIMEOUT, Bench

ODD = 63

enable = test_switch_faults.enable


@pytest.fixture
def bench(folder, closing):
    def make(backend_options=None, **options):
        backend_options = dict(backend_options or {})
        backend_options["features"] = backend_options.get("features", FEATURES) | wire.F_PACKED
        return closing(Bench(folder, packed=True, backend_options=backend_options,
                             **{"num": ODD, **options}))

    return make


@pytest.fixture
def made(bench):
    return bench(devices=2, keys={"message-timeout": TIMEOUT, "drain-timeout": 1, "reconnect": 0})


test_back_end_leaves = test_switch_faults.test_back_end_leaves
test_back_end_refuses = test_switch_faults.test_back_end_refuses
test_dry_run_is_stable = test_switch_faults.test_dry_run_is_stable
test_front_end_interferes = test_switch_faults.test_front_end_interferes
test_front_end_leaves = test_switch_faults.test_front_end_leaves

test_commands_from_many_clients = test_switch.test_commands_from_many_clients
test_pending_kick_survives = test_switch.test_pending_kick_survives
test_queue_enabled_after_the_switch = test_switch.test_queue_enabled_after_the_switch
test_queue_started_after_the_switch = test_switch.test_queue_started_after_the_switch
test_region_in_use_is_removed = test_switch.test_region_in_use_is_removed
test_reset_device = test_switch.test_reset_device
test_table_where_svqd_s_is = test_switch.test_table_where_svqd_s_is
test_toggles_with_workers = test_switch.test_toggles_with_workers

test_out_of_order = test_refusals.test_out_of_order
test_random_order = test_refusals.test_random_order

test_back_end_cuts_the_shadow_rings = test_hostile_memory.test_back_end_cuts_the_shadow_rings
test_guest_memory_is_cut = test_hostile_memory.test_guest_memory_is_cut
test_log_is_cut = test_hostile_memory.test_log_is_cut

test_back_end_without_bit_30 = test_modest_peers.test_back_end_without_bit_30
test_call_comes_and_goes = test_modest_peers.test_call_comes_and_goes
test_many_queues = test_modest_peers.test_many_queues
test_modest_back_end = test_modest_peers.test_modest_back_end
test_no_call = test_modest_peers.test_no_call
test_no_kick = test_modest_peers.test_no_kick

test_idle_shadow_sleeps = test_sessions.test_idle_shadow_sleeps
test_idle_shadow_with_held_requests_sleeps = (
    test_sessions.test_idle_shadow_with_held_requests_sleeps)
test_pass_through_costs_nothing = test_sessions.test_pass_through_costs_nothing
test_toggles_leak_nothing = test_sessions.test_toggles_leak_nothing
