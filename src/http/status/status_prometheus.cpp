// The metrics in Prometheus' text format, version 0.0.4.

#include "core/version.h"
#include "http/status/status_families.h"

namespace idempotency {

namespace {

// Writes the value of a label, without the quotes.
void put_label_value(Text &text, std::string_view value)
{
    for (const char &c : value) {
        if (c == '\n') {
            text << "\\n";
            continue;
        }

        if (c == '"' || c == '\\') {
            text << "\\";
        }

        text << std::string_view(&c, 1);
    }
}

void put_label(Text &text, const char *name, std::string_view value)
{
    text << "," << name << "=\"";
    put_label_value(text, value);
    text << "\"";
}

void put_head(Text &text, const char *name, const char *suffix, const char *type, const char *help)
{
    text << "# HELP idempotency_" << name << suffix << " " << help << "\n# TYPE idempotency_"
         << name << suffix << " " << type << "\n";
}

// Begins a sample; the caller adds labels, and `put_end`.
void put_begin(Text &text, const char *name, const char *suffix, const StoreStatus &store)
{
    text << "idempotency_" << name << suffix << "{store=\"";
    put_label_value(text, store.name);
    text << "\"";
}

const char *suffix_of(const Family &family) { return family.is_gauge ? "" : "_total"; }

void put_samples(Text &text, const StoreStatus &store, const Family &family)
{
    for (std::size_t i = 0; i < family.member_count; i++) {
        put_begin(text, family.name, suffix_of(family), store);

        if (family.label != nullptr) {
            put_label(text, family.label, family.member(i));
        }

        text << "} ";
        put_value(text, family.read(store, i), "+Inf");
        text << "\n";
    }
}

void put_latency(Text &text, const StatusPage &page)
{
    constexpr const char *name = "store_call_seconds";

    put_head(text, name, "", "histogram",
             "Time of calls to a store, without those that a near cache replied to.");

    for (std::size_t i = 0; i < page.count; i++) {
        const StoreStatus &store = page.stores[i];

        for (std::size_t kind = 0; kind < kCallKinds; kind++) {
            const Latency &latency = store.metrics.latency[kind];
            std::uint64_t sum = 0;

            for (std::size_t bucket = 0; bucket < kLatencyBuckets; bucket++) {
                sum += latency.buckets[bucket];
                put_begin(text, name, "_bucket", store);
                put_label(text, "call", kCallNames[kind]);
                text << ",le=\"";

                if (bucket < kLatencyBuckets - 1) {
                    text.put_fraction(kLatencyBounds[bucket], 1000000);
                } else {
                    text << "+Inf";
                }

                text << "\"} " << sum << "\n";
            }

            put_begin(text, name, "_sum", store);
            put_label(text, "call", kCallNames[kind]);
            text << "} ";
            text.put_fraction(latency.sum, 1000000);
            text << "\n";
            put_begin(text, name, "_count", store);
            put_label(text, "call", kCallNames[kind]);
            text << "} " << sum << "\n";
        }
    }
}

void put_last_errors(Text &text, const StatusPage &page)
{
    constexpr const char *name = "last_error_timestamp_seconds";

    put_head(text, name, "", "gauge", "When a call to a store last failed, by cause.");

    for (std::size_t i = 0; i < page.count; i++) {
        const StoreStatus &store = page.stores[i];

        for (std::size_t cause = 1; cause < kCauses; cause++) {
            if (store.metrics.errors_at[cause] != 0) {
                put_begin(text, name, "", store);
                put_label(text, "cause", cause_name(static_cast<Cause>(cause)));
                text << "} ";
                text.put_fraction(store.metrics.errors_at[cause], 1000);
                text << "\n";
            }
        }
    }
}

// A metric of each Redis node.
struct NodeFamily {
    const char *name;
    const char *help;
    bool is_gauge;
    bool needs_info;
    std::uint64_t (*read)(const NodeFigures &node);
};

constexpr NodeFamily kNodeFamilies[] = {
    {"redis_up", "1 if all workers that use the node reach it.", true, false,
     [](const NodeFigures &n) -> std::uint64_t { return n.up; }},
    {"redis_connections", "Established connections to a Redis node.", true, false,
     [](const NodeFigures &n) { return n.connections; }},
    {"redis_in_flight", "Commands to a Redis node without a reply.", true, false,
     [](const NodeFigures &n) { return n.in_flight; }},
    {"redis_commands", "Commands that were sent to a Redis node.", false, false,
     [](const NodeFigures &n) { return n.commands; }},
    {"redis_reconnects", "Connections to a Redis node that were lost.", false, false,
     [](const NodeFigures &n) { return n.reconnects; }},
    {"redis_evicts", "1 if the maxmemory-policy of a Redis node may remove records.", true, true,
     [](const NodeFigures &n) -> std::uint64_t { return n.info.evicts; }},
    {"redis_used_memory_bytes", "Memory that a Redis node uses.", true, true,
     [](const NodeFigures &n) { return n.info.used_memory; }},
    {"redis_maxmemory_bytes", "maxmemory of a Redis node; 0: no limit.", true, true,
     [](const NodeFigures &n) { return n.info.maxmemory; }},
    {"redis_replicas", "Replicas of a Redis node that are online.", true, true,
     [](const NodeFigures &n) { return n.info.replicas; }},
    {"redis_replica_lag_seconds", "Lag of the slowest replica of a Redis node.", true, true,
     [](const NodeFigures &n) { return n.info.lag; }},
};

template <typename Each>
void for_each_node(const StatusPage &page, bool needs_info, Each each)
{
    for (std::size_t i = 0; i < page.count; i++) {
        const StoreMetrics &metrics = page.stores[i].metrics;

        for (std::size_t n = 0; n < metrics.node_count; n++) {
            if (!needs_info || metrics.nodes[n].info.is_known) {
                each(page.stores[i], metrics.nodes[n]);
            }
        }
    }
}

void put_nodes(Text &text, const StatusPage &page)
{
    std::size_t nodes = 0;

    for_each_node(page, false, [&](const StoreStatus &, const NodeFigures &) { nodes++; });

    if (nodes == 0) {
        return;
    }

    for (const NodeFamily &family : kNodeFamilies) {
        const char *suffix = family.is_gauge ? "" : "_total";

        put_head(text, family.name, suffix, family.is_gauge ? "gauge" : "counter", family.help);
        for_each_node(page, family.needs_info,
                      [&](const StoreStatus &store, const NodeFigures &node) {
                          put_begin(text, family.name, suffix, store);
                          put_label(text, "node", node.name);
                          text << "} " << family.read(node) << "\n";
                      });
    }

    put_head(text, "redis_info", "", "gauge", "1, with what a Redis node says about itself.");
    for_each_node(page, true, [&](const StoreStatus &store, const NodeFigures &node) {
        put_begin(text, "redis_info", "", store);
        put_label(text, "node", node.name);
        put_label(text, "role", node.info.role);
        put_label(text, "version", node.info.version);
        put_label(text, "maxmemory_policy", node.info.policy);
        text << "} 1\n";
    });
}

}  // namespace

void put_prometheus(Text &text, const StatusPage &page)
{
    put_head(text, "build_info", "", "gauge", "1, with the versions of the module and of nginx.");
    text << "idempotency_build_info{version=\"" << kVersion << "\"";
    put_label(text, "nginx_version", page.server_version);
    put_label(text, "host", page.host);
    text << "} 1\n";

    if (page.count == 0) {
        return;
    }

    put_head(text, "start_time_seconds", "", "gauge", "When nginx was started, in Unix time.");
    text << "idempotency_start_time_seconds ";
    text.put_fraction(started_at(page), 1000);
    text << "\n";

    for (std::size_t f = 0; f < kFamilyCount; f++) {
        const Family &family = kFamilies[f];

        if (!any_has(page, family)) {
            continue;
        }

        put_head(text, family.name, suffix_of(family), family.is_gauge ? "gauge" : "counter",
                 family.help);

        for (std::size_t i = 0; i < page.count; i++) {
            if (has(page.stores[i], family)) {
                put_samples(text, page.stores[i], family);
            }
        }
    }

    put_latency(text, page);
    put_last_errors(text, page);
    put_nodes(text, page);
}

}  // namespace idempotency
