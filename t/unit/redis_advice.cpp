// What the log says about error replies and settings of Redis.

#include "cmocka.h"

#include <cstring>

#include "redis/protocol/advice.h"

using namespace idempotency;

namespace {

bool says(const char *advice, const char *part)
{
    return advice != nullptr && std::strstr(advice, part) != nullptr;
}

UNIT_TEST(errors_have_a_remedy)
{
    // as Redis 5 to 8, Valkey, twemproxy and Envoy reply
    assert_true(says(advice_for_error("ERR unknown command 'EVALSHA', with args beginning with: "),
                     "rename-command"));
    assert_true(says(advice_for_error("ERR unknown command `EVALSHA`, with args beginning with: "),
                     "rename-command"));
    assert_true(
        says(advice_for_error("ERR Unknown Redis command called from script script: 0a, on @user"),
             "script cannot run"));
    assert_true(
        says(advice_for_error("ERR Unknown command called from script script: 0a, on @user"),
             "script cannot run"));
    assert_true(says(advice_for_error("ERR Error running script (call to f_0a): @user_script:1: "
                                      "Write commands not allowed after non deterministic "
                                      "commands"),
                     "Redis 7.0"));
    assert_true(says(advice_for_error("NOPERM this user has no permissions to run"), "ACL"));
    assert_true(says(advice_for_error("OOM command not allowed"), "maxmemory"));
    assert_true(says(advice_for_error("MOVED 5 10.0.0.1:6379"), "topology cluster"));
    assert_null(advice_for_error("ERR something"));
    assert_null(advice_for_error("LOADING Redis is loading the dataset in memory"));
    assert_null(advice_for_error(""));
}

UNIT_TEST(what_the_metrics_show_of_info)
{
    NodeInfo info;

    info.replicas = 7;
    read_node_info("# Server\r\nredis_version:7.2.4\r\nvalkey_version:8.1.1\r\nused_memory:1024\r\n"
                   "maxmemory:4096\r\nmaxmemory_policy:volatile lru\r\nrole:master\r\n"
                   "connected_slaves:3\r\n"
                   "slave0:ip=10.0.0.2,port=6379,state=online,offset=1,lag=2\r\n"
                   "slave1:ip=10.0.0.3,port=6379,state=wait_bgsave,offset=0,lag=90\r\n"
                   "slave2:ip=10.0.0.4,port=6379,state=online,offset=1,lag=5\r\n",
                   info);

    assert_true(info.is_known);
    assert_true(info.evicts);
    assert_string_equal(info.role, "master");
    assert_string_equal(info.version, "8.1.1");
    assert_string_equal(info.policy, "volatile_lru");
    assert_int_equal(info.used_memory, 1024);
    assert_int_equal(info.maxmemory, 4096);
    assert_int_equal(info.replicas, 2);
    assert_int_equal(info.lag, 5);

    read_node_info(
        "redis_version:7.0.15-and-a-name-that-is-too-long\r\nconnected_slaves:99999999999\r\n",
        info);
    assert_string_equal(info.version, "7.0.15-and-a-name-that-");
    assert_false(info.evicts);
    assert_int_equal(info.replicas, 0);
    assert_int_equal(info.maxmemory, 0);
}

UNIT_TEST(settings_that_lose_data_are_found)
{
    constexpr const char *good = "# Server\r\nredis_version:7.0.15\r\n# Memory\r\n"
                                 "maxmemory_policy:noeviction\r\n";

    assert_null(advice_for_version(good));
    assert_null(advice_for_eviction(good));
    assert_null(advice_for_version("redis_version:7.2.4\r\nvalkey_version:9.1.2\r\n"));
    assert_null(advice_for_version("redis_version:10.0.0\r\n"));
    assert_true(says(advice_for_version("x:1\r\nredis_version:6.2.14\r\n"), "Redis 7.0"));
    assert_true(says(advice_for_eviction("x:1\r\nmaxmemory_policy:allkeys-lru\r\n"), "noeviction"));
    assert_true(says(advice_for_eviction("maxmemory_policy:volatile-ttl"), "noeviction"));

    // a proxy, or another product
    for (const char *other : {"", "\r\n", ":", "redis_version", "redis_version:", "redis_version:x",
                              "maxmemory_policy:", "not_maxmemory_policy:allkeys-lru"})
    {
        assert_null(advice_for_version(other));
        assert_null(advice_for_eviction(other));
    }
}

}  // namespace
