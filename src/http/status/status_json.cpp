// The metrics as JSON: docs/status.schema.json.

#include "core/digest.h"
#include "core/key.h"
#include "core/version.h"
#include "http/status/status_families.h"

namespace idempotency {

namespace {

// Writes a JSON string, with its quotes.
void put_string(Text &text, std::string_view value)
{
    text << "\"";

    for (const char &c : value) {
        auto byte = static_cast<unsigned char>(c);

        if (byte == '"' || byte == '\\') {
            text << "\\" << std::string_view(&c, 1);

        } else if (byte < 0x20) {
            char escaped[8];

            std::snprintf(escaped, sizeof(escaped), "\\u%04x", byte);
            text << std::string_view(escaped);

        } else {
            text << std::string_view(&c, 1);
        }
    }

    text << "\"";
}

void put_bool(Text &text, bool value) { text << (value ? "true" : "false"); }

// A time in seconds; null if there is none.
void put_time(Text &text, std::uint64_t milliseconds)
{
    if (milliseconds == 0) {
        text << "null";
    } else {
        text.put_fraction(milliseconds, 1000);
    }
}

void put_cause(Text &text, Cause cause)
{
    if (cause == Cause::none) {
        text << "null";
    } else {
        put_string(text, cause_name(cause));
    }
}

void put_health(Text &text, const StoreStatus &store)
{
    const StoreMetrics &metrics = store.metrics;

    text << ", \"health\": {\"ok\": ";
    put_bool(text, metrics.healthy);
    text << ", \"cause\": ";
    put_cause(text, metrics.cause);
    text << ", \"since\": ";
    put_time(text, metrics.failing_since);
    text << ", \"last_granted\": ";
    put_time(text, metrics.last_granted);
    text << ", \"last_refused\": ";
    put_time(text, metrics.last_refused);
    text << ", \"workers\": " << metrics.workers << ", \"workers_up\": " << metrics.workers_up
         << "}";
}

void put_family(Text &text, const StoreStatus &store, const Family &family)
{
    text << ", \"" << family.name << "\": ";

    if (family.label == nullptr) {
        put_value(text, family.read(store, 0), "null");
        return;
    }

    for (std::size_t i = 0; i < family.member_count; i++) {
        text << (i == 0 ? "{\"" : ", \"") << family.member(i) << "\": ";
        put_value(text, family.read(store, i), "null");
    }

    text << "}";
}

// The buckets are cumulative, as in Prometheus.
void put_latency(Text &text, const StoreStatus &store)
{
    text << ", \"store_call_seconds\": {";

    for (std::size_t kind = 0; kind < kCallKinds; kind++) {
        const Latency &latency = store.metrics.latency[kind];
        std::uint64_t sum = 0;

        text << (kind == 0 ? "\"" : ", \"") << kCallNames[kind] << "\": {\"buckets\": {";

        for (std::size_t i = 0; i < kLatencyBuckets - 1; i++) {
            sum += latency.buckets[i];
            text << (i == 0 ? "\"" : ", \"");
            text.put_fraction(kLatencyBounds[i], 1000000);
            text << "\": " << sum;
        }

        sum += latency.buckets[kLatencyBuckets - 1];
        text << "}, \"count\": " << sum << ", \"sum\": ";
        text.put_fraction(latency.sum, 1000000);
        text << "}";
    }

    text << "}";
}

void put_last_error(Text &text, const StoreStatus &store)
{
    std::size_t last = 0;

    for (std::size_t i = 1; i < kCauses; i++) {
        last = store.metrics.errors_at[i] > store.metrics.errors_at[last] ? i : last;
    }

    text << ", \"last_error\": ";

    if (last == 0) {
        text << "null";
        return;
    }

    text << "{\"time\": ";
    put_time(text, store.metrics.errors_at[last]);
    text << ", \"cause\": ";
    put_cause(text, static_cast<Cause>(last));
    text << "}";
}

void put_events(Text &text, const StoreStatus &store)
{
    text << ", \"events\": [";

    for (std::size_t i = 0; i < store.metrics.events.count; i++) {
        const EventFigures &event = store.metrics.events.items[i];
        char hex[kHexLength];

        write_hex(event.id, hex);
        text << (i == 0 ? "{\"time\": " : ", {\"time\": ");
        put_time(text, event.time);
        text << ", \"event\": \"" << event_name(event.event) << "\", \"key_id\": \""
             << std::string_view(hex, kHexLength) << "\", \"cause\": ";
        put_cause(text, event.cause);
        text << "}";
    }

    text << "]";
}

void put_nodes(Text &text, const StoreStatus &store)
{
    text << ", \"nodes\": [";

    for (std::size_t i = 0; i < store.metrics.node_count; i++) {
        const NodeFigures &node = store.metrics.nodes[i];

        text << (i == 0 ? "{\"node\": " : ", {\"node\": ");
        put_string(text, node.name);
        text << ", \"up\": ";
        put_bool(text, node.up);
        text << ", \"connections\": " << node.connections << ", \"in_flight\": " << node.in_flight
             << ", \"commands\": " << node.commands << ", \"reconnects\": " << node.reconnects
             << ", \"info\": ";

        if (!node.info.is_known) {
            text << "null}";
            continue;
        }

        text << "{\"role\": ";
        put_string(text, node.info.role);
        text << ", \"version\": ";
        put_string(text, node.info.version);
        text << ", \"maxmemory_policy\": ";
        put_string(text, node.info.policy);
        text << ", \"evicts\": ";
        put_bool(text, node.info.evicts);
        text << ", \"used_memory_bytes\": " << node.info.used_memory
             << ", \"maxmemory_bytes\": " << node.info.maxmemory
             << ", \"replicas\": " << node.info.replicas
             << ", \"replica_lag_seconds\": " << node.info.lag << "}}";
    }

    text << "]";
}

}  // namespace

void put_json(Text &text, const StatusPage &page)
{
    text << "{\"version\": 1, \"time\": ";
    put_time(text, page.time);
    text << ", \"host\": ";
    put_string(text, page.host);
    text << ", \"module_version\": ";
    put_string(text, kVersion);
    text << ", \"nginx_version\": ";
    put_string(text, page.server_version);
    text << ", \"started\": ";
    put_time(text, started_at(page));
    text << ", \"stores\": {";

    for (std::size_t i = 0; i < page.count; i++) {
        const StoreStatus &store = page.stores[i];

        text << (i == 0 ? "\n" : ",\n");
        put_string(text, store.name);
        text << ": {\"engine\": \"" << store.now.engine << "\"";
        put_health(text, store);

        for (std::size_t f = 0; f < kFamilyCount; f++) {
            if (has(store, kFamilies[f])) {
                put_family(text, store, kFamilies[f]);
            }
        }

        put_latency(text, store);
        put_last_error(text, store);
        put_nodes(text, store);
        put_events(text, store);
        text << "}";
    }

    text << "\n}}\n";
}

}  // namespace idempotency
