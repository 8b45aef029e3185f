// How a node of a cluster says where a key is.

#include "cmocka.h"

#include <string>

#include "redis/protocol/redirect.h"

using namespace idempotency;

namespace {

UNIT_TEST(all_forms_of_a_redirection)
{
    const struct {
        const char *error;
        bool ask;
        unsigned slot;
        const char *host;
        unsigned port;
    } cases[] = {
        {"MOVED 3999 127.0.0.1:6381", false, 3999, "127.0.0.1", 6381},
        {"ASK 0 10.0.0.1:1", true, 0, "10.0.0.1", 1},
        {"MOVED 16383 node-7.example.com:65535", false, 16383, "node-7.example.com", 65535},
        {"MOVED 5 :6381", false, 5, "", 6381},
        {"MOVED 5 2001:db8::7:6381", false, 5, "2001:db8::7", 6381},
        {"MOVED 5 [2001:db8::7]:6381", false, 5, "2001:db8::7", 6381},
        {"ASK 5 ::1:6381", true, 5, "::1", 6381},
        {"MOVED 5 host:6381 and more", false, 5, "host", 6381},
    };

    for (const auto &each : cases) {
        RedisRedirect read;

        if (!parse_redis_redirect(each.error, read)) {
            fail_msg("not read: %s", each.error);
        }

        assert_int_equal(read.ask, each.ask);
        assert_int_equal(read.slot, each.slot);
        assert_true(read.host == each.host);
        assert_int_equal(read.port, each.port);
    }
}

UNIT_TEST(the_longest_host_is_accepted)
{
    RedisRedirect read;
    std::string host(kMaxRedisHost, 'h');
    std::string error = "MOVED 1 " + host + ":6379";

    assert_true(parse_redis_redirect(error, read));
    assert_true(read.host == host);
    assert_false(parse_redis_redirect("MOVED 1 h" + host + ":6379", read));
}

UNIT_TEST(other_errors_are_no_redirections)
{
    const std::string cases[] = {
        "",
        "MOVED",
        "MOVED ",
        "MOVED 1",
        "MOVED 1 ",
        "MOVED 1 host",
        "MOVED 1 host:",
        "MOVED 1 host:0",
        "MOVED 1 host:65536",
        "MOVED 1 host:-1",
        "MOVED 1 host:+1",
        "MOVED 1 host:1x",
        "MOVED 16384 host:1",
        "MOVED -1 host:1",
        "MOVED x host:1",
        "MOVED  1 host:1",
        "MOVED 1  host:1",
        "MOVEDX 1 host:1",
        "moved 1 host:1",
        "ASKING 1 host:1",
        "ERR MOVED 1 host:1",
        "MOVED 99999999999 host:1",
        "MOVED 1 ho\nst:1",
        std::string("MOVED 1 ho\0st:1", 15),
        "MOVED 1 ho\x7fst:1",
        "TRYAGAIN Multiple keys request during rehashing of slot",
        "CLUSTERDOWN Hash slot not served",
    };

    for (const std::string &error : cases) {
        RedisRedirect read;

        if (parse_redis_redirect(error, read)) {
            fail_msg("taken for a redirection: %s", error.c_str());
        }
    }
}

}  // namespace
