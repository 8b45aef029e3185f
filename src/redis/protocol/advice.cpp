#include "redis/protocol/advice.h"

#include <algorithm>
#include <charconv>

namespace idempotency {

namespace {

struct Advice {
    std::string_view begin;  // of the error
    std::string_view part;   // somewhere in it
    const char *text;
};

constexpr const char *kRenamed =
    "Redis does not have a command that the module needs: remove its rename-command from "
    "redis.conf, or use a server or a proxy that has EVAL and EVALSHA";
constexpr const char *kScript =
    "a script cannot run: use Redis 7.0, Valkey 7.2 or later, and remove rename-command from "
    "redis.conf";
constexpr const char *kLogin = "correct user and password of the store, or the ACL of Redis";

// The first that fits.
constexpr Advice kAdvice[] = {
    {"ERR unknown command", "", kRenamed},
    {"ERR Unknown ", "from script", kScript},
    {"ERR ", "non deterministic", kScript},
    {"ERR ", "run script", kScript},
    {"ERR ", "running script", kScript},
    {"ERR unknown", "ommand", kRenamed},
    {"NOPERM ", "", "allow the commands and keys of the ACL in docs/redis.md to this user"},
    {"NOAUTH ", "", kLogin},
    {"WRONGPASS ", "", kLogin},
    {"OOM ", "", "Redis is full: raise maxmemory, or make responses or idempotency_ttl smaller"},
    {"MISCONF ", "", "Redis cannot save its data: see the log of Redis, and its disk"},
    {"NOREPLICAS", "", "too few replicas are connected, or they are too slow"},
    {"BUSY ", "", "a script of another program blocks Redis: SCRIPT KILL ends it"},
    {"WRONGTYPE ", "", "another program has written this key: delete the key, and change prefix"},
    {"CROSSSLOT", "", "a proxy or cluster does not route scripts by their key"},
    {"MOVED ", "", "the server is a node of a cluster: set \"topology cluster\" in the store"},
};

}  // namespace

const char *advice_for_error(std::string_view text) noexcept
{
    for (const Advice &each : kAdvice) {
        if (text.substr(0, each.begin.size()) == each.begin
            && (each.part.empty() || text.find(each.part) != std::string_view::npos))
        {
            return each.text;
        }
    }

    return nullptr;
}

std::string_view info_field(std::string_view info, std::string_view name) noexcept
{
    while (!info.empty()) {
        std::string_view line = info.substr(0, info.find('\n'));

        info.remove_prefix(line.size() < info.size() ? line.size() + 1 : info.size());

        if (!line.empty() && line.back() == '\r') {
            line.remove_suffix(1);
        }

        if (line.size() > name.size() && line.substr(0, name.size()) == name
            && line[name.size()] == ':') {
            return line.substr(name.size() + 1);
        }
    }

    return {};
}

// Valkey names its own version besides that of the Redis that it is compatible with.
const char *advice_for_version(std::string_view info) noexcept
{
    std::string_view version = info_field(info, "redis_version");
    unsigned major = 0;
    auto read = std::from_chars(version.data(), version.data() + version.size(), major);

    bool is_too_old = read.ec == std::errc() && major < 7;

    return is_too_old ? "the module is not tested with a version before Redis 7.0 and Valkey 7.2: "
                        "upgrade it"
                      : nullptr;
}

const char *advice_for_eviction(std::string_view info) noexcept
{
    std::string_view policy = info_field(info, "maxmemory_policy");

    return policy.empty() || policy == "noeviction"
               ? nullptr
               : "it may evict claims and responses, and requests may then run twice: set "
                 "maxmemory-policy noeviction";
}

namespace {

std::uint64_t parse_number(std::string_view text)
{
    std::uint64_t number = 0;

    std::from_chars(text.data(), text.data() + text.size(), number);
    return number;
}

// Only what a label may have without surprises.
template <std::size_t N>
void copy_word(std::string_view text, char (&out)[N])
{
    std::size_t length = 0;

    for (char c : text.substr(0, N - 1)) {
        out[length++] = c > 0x20 && c < 0x7f ? c : '_';
    }

    out[length] = '\0';
}

// The value of `name=VALUE` in a list that is separated by commas.
std::string_view part_of(std::string_view list, std::string_view name)
{
    while (!list.empty()) {
        std::string_view part = list.substr(0, list.find(','));

        list.remove_prefix(part.size() < list.size() ? part.size() + 1 : list.size());

        if (part.size() > name.size() && part.substr(0, name.size()) == name
            && part[name.size()] == '=') {
            return part.substr(name.size() + 1);
        }
    }

    return {};
}

// slave0:ip=10.0.0.2,port=6379,state=online,offset=1234,lag=1
void read_replicas(std::string_view info, NodeInfo &out)
{
    std::uint64_t count = parse_number(info_field(info, "connected_slaves"));
    char name[32];

    for (std::uint64_t i = 0; i < count; i++) {
        char *end = std::to_chars(std::copy_n("slave", 5, name), name + sizeof(name), i).ptr;
        std::string_view replica = info_field(info, {name, static_cast<std::size_t>(end - name)});

        if (replica.empty()) {
            break;
        }

        if (part_of(replica, "state") == "online") {
            out.replicas++;
            out.lag = std::max(out.lag, parse_number(part_of(replica, "lag")));
        }
    }
}

}  // namespace

void read_node_info(std::string_view info, NodeInfo &out) noexcept
{
    std::string_view version = info_field(info, "valkey_version");

    out = NodeInfo();
    out.is_known = true;
    out.evicts = advice_for_eviction(info) != nullptr;
    copy_word(info_field(info, "role"), out.role);
    copy_word(version.empty() ? info_field(info, "redis_version") : version, out.version);
    copy_word(info_field(info, "maxmemory_policy"), out.policy);
    out.used_memory = parse_number(info_field(info, "used_memory"));
    out.maxmemory = parse_number(info_field(info, "maxmemory"));
    read_replicas(info, out);
}

}  // namespace idempotency
