// Slots of keys, and maps of slots as nodes tell them.

#include "cmocka.h"

#include <string>

#include <hiredis/hiredis.h>

#include "redis/protocol/slots.h"

using namespace idempotency;

namespace {

KeyId some_id(unsigned char byte)
{
    KeyId id{};

    id.bytes.fill(byte);
    return id;
}

// What CLUSTER KEYSLOT says, by the specification's words.
unsigned slot_of(const std::string &key)
{
    std::string hashed = key;
    std::size_t begin = key.find('{');

    if (begin != std::string::npos) {
        std::size_t end = key.find('}', begin + 1);

        if (end != std::string::npos && end != begin + 1) {
            hashed = key.substr(begin + 1, end - begin - 1);
        }
    }

    return redis_crc16(hashed) % kRedisSlots;
}

UNIT_TEST(the_checksum_is_the_specified_one)
{
    assert_int_equal(redis_crc16("123456789"), 0x31c3);
    assert_int_equal(redis_crc16(""), 0);
    assert_int_equal(redis_crc16("6789", redis_crc16("12345")), 0x31c3);

    // as a Redis 7.0 answers to CLUSTER KEYSLOT
    assert_int_equal(slot_of("foo"), 12182);
    assert_int_equal(slot_of("bar"), 5061);
    assert_int_equal(slot_of("{user1000}.following"), slot_of("{user1000}.followers"));
}

UNIT_TEST(a_prefix_may_have_a_hash_tag)
{
    const char *const prefixes[] = {"",        "idempotency:", "{shop}:", "a{shop}b{other}:",
                                    "{}:",     "{}{a}:",       "{",       "}{",
                                    "a}b{c}:", "{{a}}:",       "{a",      "}",
                                    "{}",      "x{}y{z}"};

    for (std::string prefix : prefixes) {
        RedisKeySlots slotter(prefix);

        for (int byte = 0; byte < 256; byte++) {
            KeyId id = some_id(static_cast<unsigned char>(byte));
            char hex[kHexLength];

            write_hex(id, hex);
            assert_int_equal(slotter.slot(id), slot_of(prefix + std::string(hex, sizeof(hex))));
        }
    }

    RedisKeySlots tagged("{shop}:");

    assert_int_equal(tagged.slot(some_id(1)), tagged.slot(some_id(2)));
}

// A reply as hiredis makes it of what stands in `protocol`.
struct Reply {
    explicit Reply(const std::string &protocol) : reader(redisReaderCreate())
    {
        assert_int_equal(redisReaderFeed(reader, protocol.data(), protocol.size()), REDIS_OK);
        assert_int_equal(redisReaderGetReply(reader, &reply), REDIS_OK);
        assert_non_null(reply);
    }

    ~Reply()
    {
        freeReplyObject(reply);
        redisReaderFree(reader);
    }

    const redisReply &operator*() const { return *static_cast<redisReply *>(reply); }

    redisReader *reader;
    void *reply = nullptr;
};

std::string number(long long value) { return ":" + std::to_string(value) + "\r\n"; }

std::string bulk(const std::string &bytes)
{
    return "$" + std::to_string(bytes.size()) + "\r\n" + bytes + "\r\n";
}

std::string list(std::initializer_list<std::string> elements)
{
    std::string out = "*" + std::to_string(elements.size()) + "\r\n";

    for (const std::string &element : elements) {
        out += element;
    }

    return out;
}

std::string node(const std::string &host, long long port)
{
    return list({host, number(port), bulk("0123456789abcdef"), list({})});
}

std::string range(long long first, long long last, const std::string &owner)
{
    return list({number(first), number(last), owner});
}

const char *const kNil = "$-1\r\n";

UNIT_TEST(slot_maps_are_read)
{
    RedisSlotMap map;
    std::string replica = node(bulk("10.0.0.9"), 7009);

    assert_null(map.read(*Reply(list({
        list({number(0), number(5), node(bulk("10.0.0.1"), 7001), replica, replica}),
        range(6, 6, node(bulk("cache-2.example"), 7002)),
        range(10, 16383, node(bulk("10.0.0.1"), 7001)),
    }))));

    assert_int_equal(map.size(), 2);
    assert_string_equal(map.node(0).host, "10.0.0.1");
    assert_int_equal(map.node(0).port, 7001);
    assert_string_equal(map.node(1).host, "cache-2.example");
    assert_int_equal(map.node(1).port, 7002);

    for (std::size_t slot = 0; slot < kRedisSlots; slot++) {
        std::uint16_t wanted = slot == 6 ? 1 : slot > 6 && slot < 10 ? RedisSlotMap::kNoNode : 0;

        assert_int_equal(map.owner(slot), wanted);
    }

    // the next answer replaces it
    assert_null(map.read(*Reply(list({range(1, 1, node(bulk("::1"), 7001))}))));
    assert_int_equal(map.size(), 1);
    assert_string_equal(map.node(0).host, "::1");
    assert_int_equal(map.owner(0), RedisSlotMap::kNoNode);
    assert_int_equal(map.owner(1), 0);
}

UNIT_TEST(a_node_without_a_host_has_the_host_that_was_queried)
{
    RedisSlotMap map;

    assert_null(map.read(*Reply(list({
        range(0, 0, node(kNil, 7001)),
        range(1, 1, node(bulk(""), 7002)),
        // of Redis before 4.0: neither id nor metadata
        range(2, 2, list({bulk("10.0.0.1"), number(7003)})),
        range(3, 3, list({bulk("10.0.0.1"), number(7003), bulk("id")})),
    }))));
    assert_int_equal(map.size(), 3);
    assert_string_equal(map.node(map.owner(0)).host, "");
    assert_int_equal(map.node(map.owner(0)).port, 7001);
    assert_string_equal(map.node(map.owner(1)).host, "");
    assert_int_equal(map.node(map.owner(1)).port, 7002);
    assert_int_equal(map.owner(2), map.owner(3));
}

// `cluster-preferred-endpoint-type hostname` where a node has no hostname.
UNIT_TEST(the_address_is_used_where_the_name_is_missing)
{
    RedisSlotMap map;
    std::string metadata = list({bulk("hostname"), bulk(""), bulk("ip"), bulk("10.0.0.7")});

    assert_null(map.read(*Reply(list({
        range(0, 0, list({bulk("?"), number(7001), bulk("id"), metadata})),
        range(1, 1, node(bulk("?"), 7002)),
        range(2, 2, list({bulk("?"), number(7003)})),
        range(3, 3, list({bulk("?"), number(7003), bulk("id"), list({bulk("ip")})})),
        range(4, 4, list({bulk("?"), number(7003), bulk("id"), list({bulk("ip"), number(1)})})),
        range(5, 5, node(bulk("10.0.0.1"), 0)),
        list({number(6), number(6)}),
    }))));
    assert_int_equal(map.size(), 1);
    assert_string_equal(map.node(0).host, "10.0.0.7");
    assert_int_equal(map.owner(0), 0);

    for (std::size_t slot = 1; slot < 8; slot++) {
        assert_int_equal(map.owner(slot), RedisSlotMap::kNoNode);
    }
}

UNIT_TEST(garbage_is_not_a_slot_map)
{
    std::string good = node(bulk("10.0.0.1"), 7001);
    std::string control = "10.0.0.1\n";
    const std::string cases[] = {
        "+OK\r\n",
        ":1\r\n",
        kNil,
        bulk("slots"),
        list({}),
        list({number(1)}),
        list({list({})}),
        list({list({number(0)})}),
        list({list({number(0), number(1)})}),
        list({list({bulk("0"), number(1), good})}),
        list({list({number(0), bulk("1"), good})}),
        list({range(-1, 1, good)}),
        list({range(2, 1, good)}),
        list({range(0, 16384, good)}),
        list({range(0, 9223372036854775807, good)}),
        list({range(0, 1, bulk("10.0.0.1"))}),
        list({range(0, 1, number(1))}),
        list({range(0, 1, list({}))}),
        list({range(0, 1, list({bulk("10.0.0.1")}))}),
        list({range(0, 1, list({bulk("10.0.0.1"), bulk("7001")}))}),
        list({range(0, 1, list({number(1), number(7001)}))}),
        list({range(0, 1, node(bulk("10.0.0.1"), -1))}),
        list({range(0, 1, node(bulk("10.0.0.1"), 65536))}),
        list({range(0, 1, node(bulk(std::string(256, 'a')), 7001))}),
        list({range(0, 1, node(bulk(control), 7001))}),
        list({range(0, 1, node(bulk("a b"), 7001))}),
        list({range(0, 1, good), number(1)}),
    };

    for (const std::string &answer : cases) {
        RedisSlotMap map;

        assert_non_null(map.read(*Reply(answer)));
    }

    RedisSlotMap map;

    assert_null(map.read(*Reply(list({range(0, 1, node(bulk(std::string(255, 'a')), 65535))}))));
}

UNIT_TEST(the_number_of_nodes_is_limited)
{
    std::string ranges;
    RedisSlotMap map;
    auto answer = [&](int count) { return "*" + std::to_string(count) + "\r\n" + ranges; };

    for (int i = 0; i < 1000; i++) {
        ranges += range(i, i, node(bulk("10.0.0.1"), 7000 + i));
    }

    assert_null(map.read(*Reply(answer(1000))));
    assert_int_equal(map.size(), 1000);
    assert_int_equal(map.node(map.owner(999)).port, 7999);

    ranges += range(1000, 1000, node(bulk("10.0.0.1"), 8000));
    assert_string_equal(map.read(*Reply(answer(1001))), "its cluster has too many nodes");
}

}  // namespace
