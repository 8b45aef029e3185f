#include "core/cause.h"

namespace idempotency {

namespace {

struct Code {
    std::string_view code;
    Cause cause;
};

constexpr Code kCodes[] = {
    {"OOM", Cause::oom},
    {"READONLY", Cause::readonly},
    {"NOPERM", Cause::noperm},
    {"NOAUTH", Cause::noauth},
    {"WRONGPASS", Cause::noauth},
    {"NOSCRIPT", Cause::noscript},
    {"MOVED", Cause::moved},
    {"ASK", Cause::moved},
    {"CLUSTERDOWN", Cause::moved},
    {"CROSSSLOT", Cause::moved},
    {"TRYAGAIN", Cause::moved},
    {"LOADING", Cause::loading},
    {"MASTERDOWN", Cause::loading},
    {"MISCONF", Cause::misconf},
    {"NOREPLICAS", Cause::replicas},
    {"WRONGTYPE", Cause::corrupt},
};

constexpr const char *kNames[] = {
    "none",   "timeout",  "connection",    "oom",     "readonly",  "noperm",
    "noauth", "noscript", "moved",         "loading", "misconf",   "replicas",
    "error",  "full",     "refused_value", "corrupt", "no_memory",
};

static_assert(sizeof(kNames) / sizeof(kNames[0]) == kCauses);

}  // namespace

const char *cause_name(Cause cause) { return kNames[static_cast<std::size_t>(cause)]; }

Cause cause_of_code(std::string_view code)
{
    for (const Code &each : kCodes) {
        if (code == each.code) {
            return each.cause;
        }
    }

    return Cause::error;
}

bool is_connection_fault(Cause cause)
{
    switch (cause) {
    case Cause::timeout:
    case Cause::connection:
    case Cause::noauth:
    case Cause::loading:
        return true;
    default:
        return false;
    }
}

bool is_outage(Cause cause)
{
    switch (cause) {
    case Cause::none:
    case Cause::refused_value:
    case Cause::corrupt:
    case Cause::no_memory:
        return false;
    default:
        return true;
    }
}

}  // namespace idempotency
