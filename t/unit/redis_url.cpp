#include "cmocka.h"

#include <cstring>
#include <string>

#include "redis/protocol/url.h"

using namespace idempotency;

namespace {

struct Parsed {
    explicit Parsed(const std::string &text) : source(text), room(text.size() + 1, '#')
    {
        fault = parse_redis_url(source, &room[0], url);
        assert_int_equal(room.back(), '#');
    }

    std::string source;
    std::string room;
    RedisUrl url;
    const char *fault;
};

UNIT_TEST(valid_urls_are_parsed)
{
    struct {
        const char *text;
        const char *host;
        unsigned port;
        const char *user;
        const char *password;
        unsigned database;
        bool tls;
    } const cases[] = {
        {"redis://localhost", "localhost", 6379, "", "", 0, false},
        {"redis://localhost/", "localhost", 6379, "", "", 0, false},
        {"REDIS://127.0.0.1:7000/3", "127.0.0.1", 7000, "", "", 3, false},
        {"rediss://cache.example:6380", "cache.example", 6380, "", "", 0, true},
        {"redis://:secret@h", "h", 6379, "", "secret", 0, false},
        {"redis://u:p%40%3a%2F%25@h:1/15", "h", 1, "u", "p@:/%", 15, false},
        {"redis://u:p@ss/w?rd:x@h/1", "h", 6379, "u", "p@ss/w?rd:x", 1, false},
        {"redis://[::1]", "::1", 6379, "", "", 0, false},
        {"redis://u:p@[2001:db8::7]:65535/2", "2001:db8::7", 65535, "u", "p", 2, false},
    };

    for (const auto &expected : cases) {
        Parsed parsed(expected.text);

        assert_null(parsed.fault);
        assert_false(parsed.url.unix_socket);
        assert_true(parsed.url.host == expected.host);
        assert_int_equal(parsed.url.port, expected.port);
        assert_true(parsed.url.user == expected.user);
        assert_true(parsed.url.password == expected.password);
        assert_int_equal(parsed.url.database, expected.database);
        assert_int_equal(parsed.url.tls, expected.tls);
    }
}

UNIT_TEST(a_database_in_the_url_differs_from_the_default)
{
    assert_false(Parsed("redis://h").url.has_database);
    assert_false(Parsed("redis://h/").url.has_database);
    assert_true(Parsed("redis://h/0").url.has_database);
}

UNIT_TEST(sockets_are_paths)
{
    Parsed plain("unix:/run/redis/redis.sock");
    Parsed numbered("unix:/run/redis.sock?db=7");

    assert_null(plain.fault);
    assert_true(plain.url.unix_socket);
    assert_true(plain.url.host == "/run/redis/redis.sock");
    assert_int_equal(plain.url.database, 0);

    assert_null(numbered.fault);
    assert_true(numbered.url.host == "/run/redis.sock");
    assert_int_equal(numbered.url.database, 7);
}

UNIT_TEST(an_error_says_what_is_right)
{
    struct {
        const char *text;
        const char *says;
    } const cases[] = {
        {"", "must begin with"},
        {"localhost:6379", "must begin with"},
        {"http://localhost", "must begin with"},
        {"redis:/localhost", "must begin with"},
        {"redis://", "host is missing"},
        {"redis://:6379", "host is missing"},
        {"redis://h:", "1 to 65535"},
        {"redis://h:0", "1 to 65535"},
        {"redis://h:65536", "1 to 65535"},
        {"redis://h,i", "separated by spaces"},
        {"redis://h:1,i:2", "separated by spaces"},
        {"redis://::1", "must be in brackets"},
        {"redis://h:1:2", "only \":port\" may follow"},
        {"redis://h:-1", "1 to 65535"},
        {"redis://h:12x", "1 to 65535"},
        {"redis://h/x", "the database"},
        {"redis://h/-1", "the database"},
        {"redis://h/99999", "the database"},
        {"redis://h/1/2", "the database"},
        {"redis://h?db=1", "redis://host/db"},
        {"redis://h h", "a character"},
        {"redis://secret@h", "user:password"},
        {"redis://user:@h", "user:password"},
        {"redis://u:secret%@h", "hexadecimal"},
        {"redis://u:secret%4@h", "hexadecimal"},
        {"redis://u:secret%zz@h", "hexadecimal"},
        {"redis://u:secret%00@h", "%00"},
        {"redis://[::1", "\"]\""},
        {"redis://[::1]6379", "follow"},
        {"redis://[]", "host is missing"},
        {"redis://::1", "brackets"},
        {"unix:", "must begin with \"/\""},
        {"unix:run/redis.sock", "must begin with \"/\""},
        {"unix:/a?database=1", "db"},
        {"unix:/a:2", "?db=N"},
        {"unix:/a:", "?db=N"},
        {"unix:/a:2?db=1", "?db=N"},
        {"unix:/a?db=", "the database"},
    };

    for (const auto &expected : cases) {
        Parsed parsed(expected.text);

        assert_non_null(parsed.fault);
        if (std::strstr(parsed.fault, expected.says) == nullptr) {
            fail_msg("%s: %s", expected.text, parsed.fault);
        }
        assert_null(std::strstr(parsed.fault, "secret"));
    }

    assert_non_null(Parsed("unix:/" + std::string(107, 'x')).fault);
    assert_null(Parsed("unix:/" + std::string(106, 'x')).fault);
}

}  // namespace
