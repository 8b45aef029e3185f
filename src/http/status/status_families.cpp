#include "http/status/status_families.h"

namespace idempotency {

namespace {

constexpr const char *kStatuses[] = {
    "new",     "replayed", "in_progress", "reused", "missing",  "invalid",
    "unknown", "not_kept", "store_error", "bypass", "unscoped", "quota",
};

const char *status_name(std::size_t i) { return kStatuses[i]; }

std::uint64_t count(const StoreStatus &store, Count what)
{
    return store.metrics.counts[static_cast<std::size_t>(what)];
}

template <Count what>
Value read_count(const StoreStatus &store, std::size_t i)
{
    return {count(store, count_at(what, i))};
}

std::uint64_t count_outcomes(const StoreStatus &store, Outcome first, Outcome last)
{
    std::uint64_t sum = 0;

    for (auto i = static_cast<std::size_t>(first); i <= static_cast<std::size_t>(last); i++) {
        sum += count(store, count_of(static_cast<Outcome>(i)));
    }

    return sum;
}

const char *result_name(std::size_t i)
{
    static constexpr const char *names[] = {"kept", "not_kept", "released", "unknown"};

    return names[i];
}

Value read_result(const StoreStatus &store, std::size_t i)
{
    switch (i) {
    case 0:
        return {count(store, count_of(Outcome::kept))};
    case 1:
        return {count_outcomes(store, Outcome::not_kept_size, Outcome::not_kept_word)};
    case 2:
        return {count_outcomes(store, Outcome::released_word, Outcome::released_upgrade)};
    default:
        return {count(store, count_of(Outcome::unknown))};
    }
}

template <Outcome first>
const char *reason_name(std::size_t i)
{
    return outcome_reason(static_cast<Outcome>(static_cast<std::size_t>(first) + i));
}

template <Outcome first>
Value read_reason(const StoreStatus &store, std::size_t i)
{
    return {count(store, count_at(count_of(first), i))};
}

constexpr std::size_t between(Outcome first, Outcome last)
{
    return static_cast<std::size_t>(last) - static_cast<std::size_t>(first) + 1;
}

Value read_saved(const StoreStatus &store, std::size_t)
{
    return {count(store, Count::replayed) + count(store, Count::in_progress)
            + count(store, Count::unknown) + count(store, Count::not_kept)};
}

const char *call_name(std::size_t i) { return kCallNames[i]; }

Value read_calls(const StoreStatus &store, std::size_t i)
{
    return {store.metrics.latency[i].calls};
}

const char *observed_request_name(std::size_t i)
{
    return i < sizeof(kStatuses) / sizeof(kStatuses[0]) ? kStatuses[i] : "undecided";
}

const char *observed_outcome_name(std::size_t i)
{
    static constexpr const char *names[] = {"kept",          "not_kept_size", "not_kept_stream",
                                            "not_kept_word", "released",      "unknown",
                                            "unseen"};

    return names[i];
}

const char *observed_replay_name(std::size_t i)
{
    static constexpr const char *names[] = {"equal", "different", "not_compared"};

    return names[i];
}

const char *observed_difference_name(std::size_t i)
{
    static constexpr const char *names[] = {"status", "fields", "body"};

    return names[i];
}

// without Cause::none
const char *error_name(std::size_t i) { return cause_name(static_cast<Cause>(i + 1)); }

Value read_errors(const StoreStatus &store, std::size_t i)
{
    return {count(store, count_of(static_cast<Cause>(i + 1)))};
}

constexpr Family counter(const char *name, const char *help, Reader read)
{
    return {name, nullptr, help, Part::always, false, read, nullptr, 1};
}

constexpr Family counters(const char *name, const char *label, const char *help, Reader read,
                          const char *(*member)(std::size_t), std::size_t members)
{
    return {name, label, help, Part::always, false, read, member, members};
}

constexpr Family near_counter(const char *name, const char *help, Reader read)
{
    return {name, nullptr, help, Part::near, false, read, nullptr, 1};
}

constexpr Family gauge(const char *name, const char *help, Part part, Reader read)
{
    return {name, nullptr, help, part, true, read, nullptr, 1};
}

}  // namespace

const char *const kCallNames[kCallKinds] = {"claim", "settle", "release", "renew"};

const Family kFamilies[] = {
    gauge("healthy",
          "0 if the store has refused a call lately, or no claim was granted since, or a worker "
          "can't reach it.",
          Part::always, [](const StoreStatus &s, std::size_t) { return Value{s.metrics.healthy}; }),
    gauge("store_up", "1 if all workers are connected to the store, as far as they know.",
          Part::always,
          [](const StoreStatus &s, std::size_t) {
              return Value{s.metrics.workers_up == s.metrics.workers};
          }),
    counters("requests", "status", "Requests of a store, by $idempotency_status.",
             read_count<Count::fresh>, status_name, sizeof(kStatuses) / sizeof(kStatuses[0])),
    counter("requests_without_key", "Requests with a covered method and no key.",
            read_count<Count::without_key>),
    counter("executions_saved",
            "Requests that were not sent to the application because an earlier one had been.",
            read_saved),
    counters("results", "outcome", "Settled claims, by outcome.", read_result, result_name, 4),
    counters("not_kept", "reason", "Responses that were recorded as not kept, by reason.",
             read_reason<Outcome::not_kept_size>, reason_name<Outcome::not_kept_size>,
             between(Outcome::not_kept_size, Outcome::not_kept_word)),
    counters("released", "reason", "Claims that were released, by reason.",
             read_reason<Outcome::released_word>, reason_name<Outcome::released_word>,
             between(Outcome::released_word, Outcome::released_upgrade)),
    counter("kept_bytes", "Bytes of the records of kept responses.", read_count<Count::kept_bytes>),
    counter("replayed_bytes", "Bytes of the records of replayed responses.",
            read_count<Count::replayed_bytes>),
    gauge("claims_running", "Claims that workers hold.", Part::always,
          [](const StoreStatus &s, std::size_t) { return Value{s.metrics.claims}; }),
    gauge("oldest_claim_seconds",
          "Age of the oldest claim that a worker holds; 0 if there is none.", Part::always,
          [](const StoreStatus &s, std::size_t) {
              return Value{s.metrics.oldest_claim, Unit::milliseconds};
          }),
    gauge("waiting_requests", "Duplicates that wait for the first request.", Part::always,
          [](const StoreStatus &s, std::size_t) { return Value{s.metrics.waiting}; }),
    gauge("pending_outcomes", "Outcomes that could not be recorded yet, and are retried.",
          Part::always, [](const StoreStatus &s, std::size_t) { return Value{s.metrics.pending}; }),
    counter("renewed_leases", "Leases that were renewed.", read_count<Count::renewed>),
    counter("lost_claims", "Claims that another request has taken over while their request ran.",
            read_count<Count::lost>),
    counter("reclaimed_claims",
            "Claims that the store had lost while their request ran, and that were made again.",
            read_count<Count::reclaimed>),
    counter("late_results",
            "Responses that were delivered and not kept, because the claim was lost before.",
            read_count<Count::late>),
    counter("unkept_answers", "Responses that were delivered before they were kept.",
            read_count<Count::unkept>),
    counter("retries", "Retries to record an outcome in a store.", read_count<Count::retries>),
    counter("unrecorded_outcomes", "Outcomes that were not recorded and are not retried any more.",
            read_count<Count::unrecorded>),
    counters("store_calls", "call", "Calls to a store, without those that a near cache replied to.",
             read_calls, call_name, kCallKinds),
    counters("store_errors", "cause", "Calls to a store that failed, by cause.", read_errors,
             error_name, kCauses - 1),
    counters("observed_requests", "status",
             "Observed requests, by what $idempotency_status would have been.",
             read_count<Count::observed_fresh>, observed_request_name, 13),
    counters("observed_outcomes", "outcome",
             "Claims of observed requests, by what would have become of them.",
             read_count<Count::observed_result_kept>, observed_outcome_name, 7),
    counters("observed_replays", "result",
             "Observed requests that would have been replayed, by how a replay compares with the "
             "response of the application.",
             read_count<Count::observed_equal>, observed_replay_name, 3),
    counters("observed_differences", "part",
             "Observed requests that would have been replayed, by the part of the response that a "
             "replay would have changed.",
             read_count<Count::observed_status_different>, observed_difference_name, 3),
    gauge("memory_size_bytes", "Size of the memory of a memory store.", Part::memory,
          [](const StoreStatus &s, std::size_t) { return Value{s.now.memory.size}; }),
    gauge("memory_used_bytes", "Used memory of a memory store.", Part::memory,
          [](const StoreStatus &s, std::size_t) { return Value{s.now.memory.used}; }),
    gauge("memory_free_blocks", "Free blocks of a memory store.", Part::memory,
          [](const StoreStatus &s, std::size_t) { return Value{s.now.memory.free_blocks}; }),
    gauge("memory_keys", "Keys in a memory store.", Part::memory,
          [](const StoreStatus &s, std::size_t) { return Value{s.now.memory.keys}; }),
    gauge("memory_full_seconds",
          "Time until a memory store is full if it goes on growing as in the last minutes.",
          Part::memory,
          [](const StoreStatus &s, std::size_t) {
              return Value{s.metrics.full_in,
                           s.metrics.is_filling ? Unit::milliseconds : Unit::infinite};
          }),
    gauge("near_cache_size_bytes", "Size of the memory of a near cache.", Part::near,
          [](const StoreStatus &s, std::size_t) { return Value{s.now.near.size}; }),
    gauge("near_cache_used_bytes", "Used memory of a near cache.", Part::near,
          [](const StoreStatus &s, std::size_t) { return Value{s.now.near.used}; }),
    gauge("near_cache_keys", "Results in a near cache.", Part::near,
          [](const StoreStatus &s, std::size_t) { return Value{s.now.near.keys}; }),
    near_counter("near_cache_hits", "Claims that a near cache replied to.",
                 read_count<Count::near_hits>),
    near_counter("near_cache_misses", "Claims for which a near cache had no fresh copy.",
                 read_count<Count::near_misses>),
    near_counter("near_cache_evictions", "Copies that were removed because a near cache was full.",
                 read_count<Count::near_evictions>),
};

const std::size_t kFamilyCount = sizeof(kFamilies) / sizeof(kFamilies[0]);

bool has(const StoreStatus &store, const Family &family)
{
    switch (family.part) {
    case Part::memory:
        return store.now.memory.size > 0;
    case Part::near:
        return store.now.near.size > 0;
    default:
        return true;
    }
}

bool any_has(const StatusPage &page, const Family &family)
{
    for (std::size_t i = 0; i < page.count; i++) {
        if (has(page.stores[i], family)) {
            return true;
        }
    }

    return false;
}

void put_value(Text &text, const Value &value, const char *infinite)
{
    switch (value.unit) {
    case Unit::number:
        text << value.number;
        break;
    case Unit::milliseconds:
        text.put_fraction(value.number, 1000);
        break;
    case Unit::infinite:
        text << infinite;
        break;
    }
}

}  // namespace idempotency
