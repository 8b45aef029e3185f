// The metrics that are a number, or some numbers with a label: the same in all formats.

#pragma once

#include "http/status/status_text.h"

namespace idempotency {

// Which stores have a metric: all, those in memory, or those with a near cache.
enum class Part { always, memory, near };

enum class Unit { number, milliseconds, infinite };

struct Value {
    std::uint64_t number = 0;
    Unit unit = Unit::number;
};

// Reads the value of a metric; `index` is the member's.
using Reader = Value (*)(const StoreStatus &store, std::size_t index);

// A metric: Prometheus calls it a metric family.
struct Family {
    const char *name;   // in JSON; put_metric_name writes the name for Prometheus
    const char *label;  // null: there is one value
    const char *help;
    Part part;
    bool is_gauge;
    Reader read;
    const char *(*member)(std::size_t index);  // the value of the label
    std::size_t member_count;
};

extern const Family kFamilies[];
extern const std::size_t kFamilyCount;

// Names in the order of Call::Kind.
extern const char *const kCallNames[kCallKinds];

bool has(const StoreStatus &store, const Family &family);
bool any_has(const StatusPage &page, const Family &family);

// `infinite`: how the format writes it.
void put_value(Text &text, const Value &value, const char *infinite);

}  // namespace idempotency
