#include "redis/protocol/slots.h"

#include <algorithm>
#include <array>
#include <cstdlib>
#include <cstring>

#include <hiredis/hiredis.h>

namespace idempotency {

namespace {

constexpr const char *kGarbage = "its reply to CLUSTER SLOTS cannot be read";

constexpr std::array<std::uint16_t, 256> crc_table()
{
    std::array<std::uint16_t, 256> table{};

    for (unsigned byte = 0; byte < 256; byte++) {
        unsigned crc = byte << 8;

        for (int bit = 0; bit < 8; bit++) {
            crc = (crc & 0x8000) != 0 ? (crc << 1) ^ 0x1021 : crc << 1;
        }

        table[byte] = static_cast<std::uint16_t>(crc);
    }

    return table;
}

bool is_text(const redisReply &reply)
{
    return reply.type == REDIS_REPLY_STRING || reply.type == REDIS_REPLY_STATUS;
}

std::string_view text(const redisReply &reply)
{
    return {reply.str, static_cast<std::size_t>(reply.len)};
}

// The fourth element of a node is an array of names and values.  It has "ip" where
// the preferred endpoint of the node is not its IP address.
std::string_view find_ip(const redisReply &node)
{
    if (node.elements < 4 || node.element[3]->type != REDIS_REPLY_ARRAY) {
        return {};
    }

    const redisReply &pairs = *node.element[3];

    for (std::size_t i = 0; i + 1 < pairs.elements; i += 2) {
        const redisReply &name = *pairs.element[i];
        const redisReply &value = *pairs.element[i + 1];

        if (is_text(name) && is_text(value) && text(name) == "ip") {
            return text(value);
        }
    }

    return {};
}

enum class Found { endpoint, unknown, garbage };

// Reads the element of a range that is its master.
Found read_endpoint(const redisReply &node, RedisEndpoint &out)
{
    if (node.type != REDIS_REPLY_ARRAY || node.elements < 2
        || node.element[1]->type != REDIS_REPLY_INTEGER)
    {
        return Found::garbage;
    }

    const redisReply &name = *node.element[0];
    long long port = node.element[1]->integer;
    std::string_view host;

    if (is_text(name)) {
        host = text(name);
    } else if (name.type != REDIS_REPLY_NIL) {
        return Found::garbage;
    }

    // a node without the name that the cluster prefers
    if (host == "?") {
        host = find_ip(node);

        if (host.empty()) {
            return Found::unknown;
        }
    }

    // the node does not listen in the way of this connection, such as without TLS
    if (port == 0) {
        return Found::unknown;
    }

    return port > 0 && out.set(host, static_cast<std::uint64_t>(port)) ? Found::endpoint
                                                                       : Found::garbage;
}

}  // namespace

std::uint16_t redis_crc16(std::string_view bytes, std::uint16_t before) noexcept
{
    static constexpr auto table = crc_table();
    unsigned crc = before;

    for (char c : bytes) {
        crc = (crc << 8) ^ table[((crc >> 8) ^ static_cast<unsigned char>(c)) & 0xff];
    }

    return static_cast<std::uint16_t>(crc);
}

// The hash tag is what stands between the first "{" and the first "}" after it,
// unless it is empty.  The part of a key after the prefix is hexadecimal and has
// no brace.
RedisKeySlots::RedisKeySlots(std::string_view prefix) noexcept
    : crc_(redis_crc16(prefix)), tagged_(false)
{
    std::size_t begin = prefix.find('{');
    std::size_t end =
        begin != std::string_view::npos ? prefix.find('}', begin) : std::string_view::npos;

    if (end != std::string_view::npos && end > begin + 1) {
        crc_ = redis_crc16(prefix.substr(begin + 1, end - begin - 1));
        tagged_ = true;
    }
}

std::uint16_t RedisKeySlots::slot(const KeyId &id) const noexcept
{
    if (tagged_) {
        return crc_ % kRedisSlots;
    }

    char hex[kHexLength];

    write_hex(id, hex);
    return redis_crc16({hex, sizeof(hex)}, crc_) % kRedisSlots;
}

bool RedisEndpoint::set(std::string_view name, std::uint64_t number) noexcept
{
    bool printable = std::all_of(name.begin(), name.end(),
                                 [](char c) { return c > ' ' && c < '\x7f' && c != '"'; });

    if (name.size() > kMaxRedisHost || !printable || number == 0 || number > 65535) {
        return false;
    }

    std::copy(name.begin(), name.end(), host);
    host[name.size()] = '\0';
    port = static_cast<std::uint16_t>(number);
    return true;
}

RedisSlotMap::~RedisSlotMap() { std::free(nodes_); }

const char *RedisSlotMap::read(const redisReply &reply) noexcept
{
    size_ = 0;
    std::fill_n(owners_, kRedisSlots, kNoNode);

    if (reply.type != REDIS_REPLY_ARRAY) {
        return kGarbage;
    }

    for (std::size_t i = 0; i < reply.elements; i++) {
        const char *fault = read_range(*reply.element[i]);

        if (fault != nullptr) {
            return fault;
        }
    }

    // a node that has left its cluster, or has not joined it yet
    return size_ > 0 ? nullptr : "it knows no node that has slots";
}

const char *RedisSlotMap::read_range(const redisReply &range) noexcept
{
    if (range.type != REDIS_REPLY_ARRAY || range.elements < 2
        || range.element[0]->type != REDIS_REPLY_INTEGER
        || range.element[1]->type != REDIS_REPLY_INTEGER)
    {
        return kGarbage;
    }

    long long first = range.element[0]->integer;
    long long last = range.element[1]->integer;

    if (first < 0 || last < first || last >= static_cast<long long>(kRedisSlots)) {
        return kGarbage;
    }

    if (range.elements == 2) {
        return nullptr;
    }

    RedisEndpoint endpoint;
    std::uint16_t index = kNoNode;

    switch (read_endpoint(*range.element[2], endpoint)) {
    case Found::garbage:
        return kGarbage;

    case Found::unknown:
        return nullptr;

    case Found::endpoint:
        break;
    }

    const char *fault = find_or_add(endpoint, index);

    if (fault == nullptr) {
        std::fill(owners_ + first, owners_ + last + 1, index);
    }

    return fault;
}

const char *RedisSlotMap::find_or_add(const RedisEndpoint &endpoint, std::uint16_t &index) noexcept
{
    RedisEndpoint *end = nodes_ + size_;
    RedisEndpoint *at = std::find_if(nodes_, end, [&](const RedisEndpoint &other) {
        return other.port == endpoint.port && std::strcmp(other.host, endpoint.host) == 0;
    });

    if (at == end) {
        if (size_ == kMaxNodes) {
            return "its cluster has too many nodes";
        }

        if (size_ == capacity_) {
            std::size_t capacity = std::min(std::max<std::size_t>(2 * capacity_, 16), kMaxNodes);
            void *more = std::realloc(nodes_, capacity * sizeof(RedisEndpoint));

            if (more == nullptr) {
                return "no memory";
            }

            nodes_ = static_cast<RedisEndpoint *>(more);
            capacity_ = capacity;
        }

        at = nodes_ + size_++;
        *at = endpoint;
    }

    index = static_cast<std::uint16_t>(at - nodes_);
    return nullptr;
}

}  // namespace idempotency
