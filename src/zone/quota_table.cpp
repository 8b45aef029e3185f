#include "zone/quota_table.h"

#include <algorithm>

namespace idempotency {

std::uint64_t QuotaTable::hash(const SipKey &key, std::uint64_t directive, std::string_view value)
{
    return std::max<std::uint64_t>(siphash({key.k0 ^ directive, key.k1}, value), 1);
}

std::uint64_t QuotaTable::take(std::uint64_t value, const QuotaLimit &limit, std::uint64_t now)
{
    Memory::Entry *entry = set_of(value);
    Memory::Entry *end = entry + kQuotaWays;
    Memory::Entry *found =
        std::find_if(entry, end, [&](const Memory::Entry &e) { return e.value == value; });

    if (found == end) {
        found = std::min_element(entry, end, [](const Memory::Entry &a, const Memory::Entry &b) {
            return a.empty_at < b.empty_at;
        });
        found->empty_at = now;
        found->value = value;
    }

    std::uint64_t empty_at = std::max(found->empty_at, now);

    if (empty_at - now > limit.tolerance) {
        return empty_at - now - limit.tolerance;
    }

    found->empty_at = empty_at + limit.interval;
    return 0;
}

void QuotaTable::give_back(std::uint64_t value, const QuotaLimit &limit)
{
    Memory::Entry *entry = set_of(value);

    for (std::size_t i = 0; i < kQuotaWays; i++) {
        if (entry[i].value == value) {
            entry[i].empty_at -= std::min(entry[i].empty_at, limit.interval);
        }
    }
}

}  // namespace idempotency
