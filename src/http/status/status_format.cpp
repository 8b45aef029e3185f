// This file uses no functions of nginx.

#include <cstdio>
#include <cstring>

#include "http/status/status_format.h"

namespace idempotency {

namespace {

// Reads the value of a metric.
using Reader = std::uint64_t (*)(const StoreStatus &store, Count count);

std::uint64_t read_count(const StoreStatus &store, Count count)
{
    return store.counts[static_cast<std::size_t>(count)];
}

// Which stores have a metric: all, those in memory, or those with a near cache.
enum class Part { always, memory, near };

// One value of a metric.
struct Member {
    const char *value;  // of the label; null: the metric has no label
    Count count;
};

// A metric: Prometheus calls it a metric family.
struct Family {
    const char *name;  // in JSON; put_metric_name writes the name for Prometheus
    const char *label;
    const char *help;
    Part part;
    bool gauge;
    Reader read;
    const Member *members;
    std::size_t member_count;
};

constexpr Member kRequests[] = {
    {"new", Count::fresh},       {"replayed", Count::replayed}, {"in_progress", Count::in_progress},
    {"reused", Count::reused},   {"missing", Count::missing},   {"invalid", Count::invalid},
    {"unknown", Count::unknown}, {"not_kept", Count::not_kept}, {"store_error", Count::store_error},
    {"bypass", Count::bypass},   {"unscoped", Count::unscoped}, {"quota", Count::quota},
};

constexpr Member kResults[] = {
    {"kept", Count::result_kept},
    {"not_kept", Count::result_not_kept},
    {"released", Count::result_released},
    {"unknown", Count::result_unknown},
};

constexpr Member kLost[] = {{nullptr, Count::lost}};
constexpr Member kReclaimed[] = {{nullptr, Count::reclaimed}};
constexpr Member kLate[] = {{nullptr, Count::late}};
constexpr Member kUnkept[] = {{nullptr, Count::unkept}};
constexpr Member kRetries[] = {{nullptr, Count::retries}};
constexpr Member kUnrecorded[] = {{nullptr, Count::unrecorded}};

constexpr Member kCalls[] = {
    {"claim", Count::claims},
    {"settle", Count::settles},
    {"release", Count::releases},
};

constexpr Member kErrors[] = {
    {"unavailable", Count::unavailable},
    {"full", Count::full},
};

constexpr Member kRenewals[] = {{nullptr, Count::renewals}};

constexpr Member kObservedRequests[] = {
    {"new", Count::observed_fresh},
    {"replayed", Count::observed_replayed},
    {"in_progress", Count::observed_in_progress},
    {"reused", Count::observed_reused},
    {"missing", Count::observed_missing},
    {"invalid", Count::observed_invalid},
    {"unknown", Count::observed_unknown},
    {"not_kept", Count::observed_not_kept},
    {"store_error", Count::observed_store_error},
    {"bypass", Count::observed_bypass},
    {"unscoped", Count::observed_unscoped},
    {"quota", Count::observed_quota},
    {"undecided", Count::observed_undecided},
};

constexpr Member kObservedOutcomes[] = {
    {"kept", Count::observed_result_kept},
    {"not_kept_size", Count::observed_result_not_kept_size},
    {"not_kept_stream", Count::observed_result_not_kept_stream},
    {"not_kept_word", Count::observed_result_not_kept_word},
    {"released", Count::observed_result_released},
    {"unknown", Count::observed_result_unknown},
    {"unseen", Count::observed_result_unseen},
};

constexpr Member kObservedReplays[] = {
    {"equal", Count::observed_equal},
    {"different", Count::observed_different},
    {"not_compared", Count::observed_uncompared},
};

constexpr Member kObservedDifferences[] = {
    {"status", Count::observed_status_different},
    {"fields", Count::observed_fields_different},
    {"body", Count::observed_body_different},
};

// A gauge has no count, so its reader ignores this one.
constexpr Member kNow[] = {{nullptr, Count::fresh}};

template <std::size_t N>
constexpr Family counter(const char *name, const char *label, const char *help,
                         const Member (&members)[N])
{
    return {name, label, help, Part::always, false, read_count, members, N};
}

constexpr Family gauge(const char *name, const char *help, Part part, Reader read)
{
    return {name, nullptr, help, part, true, read, kNow, 1};
}

constexpr Family kFamilies[] = {
    counter("requests", "status", "Requests of a store, by $idempotency_status.", kRequests),
    counter("results", "outcome", "Settled claims, by outcome.", kResults),
    counter("lost_claims", nullptr,
            "Claims that another request has taken over while their request ran.", kLost),
    counter("reclaimed_claims", nullptr,
            "Claims that the store had lost while their request ran, and that were made again.",
            kReclaimed),
    counter("late_results", nullptr,
            "Responses that were delivered and not kept, because the claim was lost before.",
            kLate),
    counter("unkept_answers", nullptr, "Responses that were delivered before they were kept.",
            kUnkept),
    counter("retries", nullptr, "Retries to record an outcome in a store.", kRetries),
    counter("unrecorded_outcomes", nullptr,
            "Outcomes that were not recorded before the lease expired.", kUnrecorded),
    counter("store_calls", "call", "Calls to a store.", kCalls),
    counter("store_errors", "error", "Calls to a store that failed.", kErrors),
    counter("renewals", nullptr, "Renewals of leases.", kRenewals),
    counter("observed_requests", "status",
            "Observed requests, by what $idempotency_status would have been.", kObservedRequests),
    counter("observed_outcomes", "outcome",
            "Claims of observed requests, by what would have become of them.", kObservedOutcomes),
    counter("observed_replays", "result",
            "Observed requests that would have been replayed, by how a replay compares with the "
            "response of the application.",
            kObservedReplays),
    counter("observed_differences", "part",
            "Observed requests that would have been replayed, by the part of the response that a "
            "replay would have changed.",
            kObservedDifferences),
    gauge("store_up",
          "1 if the store is available for the worker that sends this response, else 0.",
          Part::always, [](const StoreStatus &s, Count) -> std::uint64_t { return s.now.up; }),
    gauge("memory_size_bytes", "Size of the memory of a memory store.", Part::memory,
          [](const StoreStatus &s, Count) { return s.now.memory.size; }),
    gauge("memory_used_bytes", "Used memory of a memory store.", Part::memory,
          [](const StoreStatus &s, Count) { return s.now.memory.used; }),
    gauge("memory_free_blocks", "Free blocks of a memory store.", Part::memory,
          [](const StoreStatus &s, Count) { return s.now.memory.free_blocks; }),
    gauge("memory_keys", "Keys in a memory store.", Part::memory,
          [](const StoreStatus &s, Count) { return s.now.memory.keys; }),
    gauge("near_cache_size_bytes", "Size of the memory of a near cache.", Part::near,
          [](const StoreStatus &s, Count) { return s.now.near.size; }),
    gauge("near_cache_used_bytes", "Used memory of a near cache.", Part::near,
          [](const StoreStatus &s, Count) { return s.now.near.used; }),
    gauge("near_cache_keys", "Results in a near cache.", Part::near,
          [](const StoreStatus &s, Count) { return s.now.near.keys; }),
};

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

// A text that is cut off at `capacity` bytes; `size` counts the whole text.
class Text {
public:
    Text(char *out, std::size_t capacity) : out_(out), capacity_(capacity) {}

    std::size_t size() const { return size_; }

    Text &operator<<(std::string_view text)
    {
        if (size_ < capacity_) {
            std::memcpy(out_ + size_, text.data(),
                        text.size() < capacity_ - size_ ? text.size() : capacity_ - size_);
        }

        size_ += text.size();
        return *this;
    }

    Text &operator<<(std::uint64_t number)
    {
        char digits[24];
        int length =
            std::snprintf(digits, sizeof(digits), "%llu", static_cast<unsigned long long>(number));

        return *this << std::string_view(digits, static_cast<std::size_t>(length));
    }

private:
    char *out_;
    std::size_t capacity_;
    std::size_t size_ = 0;
};

// Writes a JSON string, without the quotes.
void put_json_string(Text &text, std::string_view value)
{
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
}

void put_json_family(Text &text, const StoreStatus &store, const Family &family)
{
    text << ", \"" << family.name << "\": ";

    if (family.label == nullptr) {
        text << family.read(store, family.members[0].count);
        return;
    }

    for (std::size_t i = 0; i < family.member_count; i++) {
        text << (i == 0 ? "{\"" : ", \"") << family.members[i].value
             << "\": " << family.read(store, family.members[i].count);
    }

    text << "}";
}

void put_json(Text &text, const StoreStatus *stores, std::size_t count)
{
    text << "{\"version\": 1, \"stores\": {";

    for (std::size_t i = 0; i < count; i++) {
        text << (i == 0 ? "\n\"" : ",\n\"");
        put_json_string(text, stores[i].name);
        text << "\": {\"engine\": \"" << stores[i].now.engine << "\"";

        for (const Family &family : kFamilies) {
            if (has(stores[i], family)) {
                put_json_family(text, stores[i], family);
            }
        }

        text << "}";
    }

    text << "\n}}\n";
}

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

void put_metric_name(Text &text, const Family &family)
{
    text << "idempotency_" << family.name << (family.gauge ? "" : "_total");
}

void put_samples(Text &text, const StoreStatus &store, const Family &family)
{
    for (std::size_t i = 0; i < family.member_count; i++) {
        put_metric_name(text, family);
        text << "{store=\"";
        put_label_value(text, store.name);

        if (family.label != nullptr) {
            text << "\"," << family.label << "=\"" << family.members[i].value;
        }

        text << "\"} " << family.read(store, family.members[i].count) << "\n";
    }
}

bool any_has(const StoreStatus *stores, std::size_t count, const Family &family)
{
    for (std::size_t i = 0; i < count; i++) {
        if (has(stores[i], family)) {
            return true;
        }
    }

    return false;
}

void put_prometheus(Text &text, const StoreStatus *stores, std::size_t count)
{
    for (const Family &family : kFamilies) {
        if (!any_has(stores, count, family)) {
            continue;
        }

        text << "# HELP ";
        put_metric_name(text, family);
        text << " " << family.help << "\n# TYPE ";
        put_metric_name(text, family);
        text << (family.gauge ? " gauge\n" : " counter\n");

        for (std::size_t i = 0; i < count; i++) {
            if (has(stores[i], family)) {
                put_samples(text, stores[i], family);
            }
        }
    }
}

void put_html_text(Text &text, std::string_view value)
{
    for (const char &c : value) {
        switch (c) {
        case '<':
            text << "&lt;";
            break;
        case '>':
            text << "&gt;";
            break;
        case '&':
            text << "&amp;";
            break;
        default:
            text << std::string_view(&c, 1);
        }
    }
}

void put_html_rows(Text &text, const StoreStatus *stores, std::size_t count, const Family &family)
{
    for (std::size_t i = 0; i < family.member_count; i++) {
        text << "<tr title=\"" << family.help << "\"><th scope=\"row\">" << family.name;

        if (family.label != nullptr) {
            text << " " << family.members[i].value;
        }

        text << "</th>";

        for (std::size_t j = 0; j < count; j++) {
            text << "<td>";

            if (has(stores[j], family)) {
                text << family.read(stores[j], family.members[i].count);
            }

            text << "</td>";
        }

        text << "</tr>\n";
    }
}

void put_html(Text &text, const StoreStatus *stores, std::size_t count)
{
    text << "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
            "<title>Idempotency</title>\n<style>\n"
            "table { border-collapse: collapse; font-family: sans-serif }\n"
            "th, td { border: 1px solid #ccc; padding: 0.2em 0.6em; text-align: left }\n"
            "td { text-align: right }\n"
            "</style>\n</head>\n<body>\n<table>\n<tr><th scope=\"col\">store</th>";

    for (std::size_t i = 0; i < count; i++) {
        text << "<th scope=\"col\">";
        put_html_text(text, stores[i].name);
        text << "</th>";
    }

    text << "</tr>\n<tr><th scope=\"row\">engine</th>";

    for (std::size_t i = 0; i < count; i++) {
        text << "<td>" << stores[i].now.engine << "</td>";
    }

    text << "</tr>\n";

    for (const Family &family : kFamilies) {
        if (any_has(stores, count, family)) {
            put_html_rows(text, stores, count, family);
        }
    }

    text << "</table>\n</body>\n</html>\n";
}

}  // namespace

std::size_t format_status(StatusFormat format, const StoreStatus *stores, std::size_t count,
                          char *out, std::size_t capacity)
{
    Text text(out, capacity);

    switch (format) {
    case StatusFormat::json:
        put_json(text, stores, count);
        break;
    case StatusFormat::prometheus:
        put_prometheus(text, stores, count);
        break;
    case StatusFormat::html:
        put_html(text, stores, count);
        break;
    }

    return text.size();
}

}  // namespace idempotency
