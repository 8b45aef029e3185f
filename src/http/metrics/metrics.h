// What the metrics of one store say at one moment: plain data, for the status page.

#pragma once

#include <cstddef>
#include <cstdint>

#include "core/store.h"
#include "http/metrics/counts.h"
#include "http/metrics/latency.h"

namespace idempotency {

// What people who look after a store want to know of single keys.
enum class Event : unsigned char {
    lost,        // a claim was lost while its request ran
    reclaimed,   // a claim that the store had lost was made again
    fenced,      // a response came after its claim was lost
    unkept,      // a response was delivered before it was kept
    unrecorded,  // an outcome was not recorded
    unknown,     // an outcome is unknown
    not_kept,    // the store did not take a response
    late_grant,  // a claim was granted after its lease had expired
    corrupt,     // the value of a key can't be read
    refused,     // the first call that the store refused
};

constexpr std::size_t kEvents = static_cast<std::size_t>(Event::refused) + 1;

const char *event_name(Event event);

struct EventFigures {
    std::uint64_t time = 0;  // Unix time, milliseconds
    Event event = Event::lost;
    Cause cause = Cause::none;
    KeyId id{};  // stored_id
};

// A Redis node, over all workers.
struct NodeFigures {
    char name[128] = "";  // host:port, or unix:/path
    bool up = true;
    std::uint64_t connections = 0;  // established
    std::uint64_t in_flight = 0;    // commands without a reply
    std::uint64_t commands = 0;     // that were sent
    std::uint64_t reconnects = 0;
    NodeInfo info;
};

constexpr std::size_t kMaxNodes = 32;
// Of each kind, so that many events of one kind do not hide those of another.
constexpr std::size_t kEventsOfKind = 4;
constexpr std::size_t kMaxEvents = kEvents * kEventsOfKind;

// Sorted, the newest first; the oldest falls off the end.
template <std::size_t N>
struct EventList {
    EventFigures items[N];
    std::size_t count = 0;

    void add(const EventFigures &event)
    {
        std::size_t at = count;

        while (at > 0 && items[at - 1].time < event.time) {
            at--;
        }

        if (at == N) {
            return;
        }

        count += count < N;

        for (std::size_t i = count - 1; i > at; i--) {
            items[i] = items[i - 1];
        }

        items[at] = event;
    }
};

struct StoreMetrics {
    std::uint64_t counts[kCounts] = {};
    Latency latency[kCallKinds];
    std::uint64_t errors_at[kCauses] = {};  // the last error of each cause; 0: none

    std::uint64_t workers = 0;
    std::uint64_t workers_up = 0;  // those that can reach the store, as far as they know

    std::uint64_t claims = 0;
    std::uint64_t oldest_claim = 0;  // age in milliseconds
    std::uint64_t waiting = 0;
    std::uint64_t pending = 0;

    bool healthy = true;
    Cause cause = Cause::none;        // if it is not healthy
    std::uint64_t failing_since = 0;  // the same
    std::uint64_t last_granted = 0;   // 0: never
    std::uint64_t last_refused = 0;

    std::uint64_t used_memory = 0;  // of an embedded store; the caller of Counters::read sets it
    std::uint64_t full_in = 0;      // milliseconds until the memory is full, as it grows now
    bool is_filling = false;        // `full_in` is valid
    std::uint64_t started = 0;      // when nginx created the counters

    EventList<kMaxEvents> events;
    NodeFigures nodes[kMaxNodes];
    std::size_t node_count = 0;
};

// All times above without another unit are Unix times in milliseconds.

}  // namespace idempotency
