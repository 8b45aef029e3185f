// Questions to a server: what a Redis would answer is written here by hand.

#include "cmocka.h"

#include <string>
#include <vector>

#include <hiredis/hiredis.h>

#include "redis/protocol/query_codec.h"

using namespace idempotency;

namespace {

constexpr std::size_t kMost = 1000;

struct Harness : RedisQueryCodec::Events {
    void replied(const redisReply &reply) override
    {
        answers.push_back(describe(reply));

        if (!next.empty()) {
            std::string_view words[] = {next};

            codec.send(words, 1);
            next.clear();
        }
    }

    static std::string describe(const redisReply &reply)
    {
        switch (reply.type) {
        case REDIS_REPLY_NIL:
            return "nil";
        case REDIS_REPLY_INTEGER:
            return std::to_string(reply.integer);
        case REDIS_REPLY_ARRAY: {
            std::string out = "(";

            for (std::size_t i = 0; i < reply.elements; i++) {
                out += (i > 0 ? " " : "") + describe(*reply.element[i]);
            }

            return out + ")";
        }
        default:
            return {reply.str, static_cast<std::size_t>(reply.len)};
        }
    }

    void ask(std::initializer_list<std::string_view> words)
    {
        codec.send(words.begin(), words.size());
    }

    std::string written()
    {
        std::string bytes;
        iovec piece;

        while (codec.output(&piece, 1) == 1) {
            bytes.append(static_cast<char *>(piece.iov_base), piece.iov_len);
            codec.wrote(piece.iov_len);
        }

        return bytes;
    }

    std::vector<std::string> answers;
    std::string next;
    RedisQueryCodec codec{kMost, *this};
};

UNIT_TEST(replies_come_in_order)
{
    Harness server;

    server.codec.open("", "");
    server.ask({"CLUSTER", "SLOTS"});
    assert_string_equal(server.written().c_str(), "*2\r\n$7\r\nCLUSTER\r\n$5\r\nSLOTS\r\n");

    server.next = "ROLE";
    server.codec.input("*2\r\n$1\r\na\r\n*");
    assert_int_equal(server.answers.size(), 0);
    server.codec.input("2\r\n:7\r\n$-1\r\n+OK\r\n");
    assert_int_equal(server.answers.size(), 2);
    assert_string_equal(server.answers[0].c_str(), "(a (7 nil))");
    assert_string_equal(server.answers[1].c_str(), "OK");
    assert_string_equal(server.written().c_str(), "*1\r\n$4\r\nROLE\r\n");
    assert_null(server.codec.fault());
}

UNIT_TEST(auth_is_sent_first)
{
    Harness server;

    server.codec.open("app", "se cret");
    server.ask({"ROLE"});
    assert_string_equal(server.written().c_str(),
                        "*3\r\n$4\r\nAUTH\r\n$3\r\napp\r\n$7\r\nse cret\r\n*1\r\n$4\r\nROLE\r\n");
    server.codec.input("+OK\r\n$4\r\nhere\r\n");
    assert_int_equal(server.answers.size(), 1);
    assert_string_equal(server.answers[0].c_str(), "here");

    server.codec.open("", "secret");
    assert_string_equal(server.written().c_str(), "*2\r\n$4\r\nAUTH\r\n$6\r\nsecret\r\n");
}

UNIT_TEST(errors_are_faults)
{
    Harness server;

    server.codec.open("", "secret");
    server.codec.input("-WRONGPASS no user with secret is there\r\n+OK\r\n");
    assert_string_equal(server.codec.fault(), "it replied to AUTH with WRONGPASS");
    assert_int_equal(server.answers.size(), 0);

    // and nothing is sent any more
    server.ask({"ROLE"});
    assert_string_equal(server.written().c_str(), "");

    server.codec.open("", "");
    assert_null(server.codec.fault());
    server.codec.input("-ERR This instance has cluster support disabled\r\n");
    assert_string_equal(server.codec.fault(),
                        "it replied ERR This instance has cluster support disabled");

    server.codec.open("", "");
    server.codec.input("-ERR \x1b[2J\xff" + std::string(500, 'x') + "\r\n");
    assert_int_equal(std::string(server.codec.fault()).find("it replied ERR ?[2J?xxx"), 0);
    assert_true(std::string(server.codec.fault()).size() < 100);
}

UNIT_TEST(the_size_of_replies_is_limited)
{
    Harness server;

    server.codec.open("", "");
    server.codec.input("$999999\r\n" + std::string(kMost - 9, 'a'));
    assert_null(server.codec.fault());
    server.codec.input("a");
    assert_string_equal(server.codec.fault(), "its reply is too long");

    // each answer anew
    server.codec.open("", "");

    for (int i = 0; i < 10; i++) {
        server.codec.input("$900\r\n" + std::string(900, 'a') + "\r\n");
        assert_null(server.codec.fault());
    }

    assert_int_equal(server.answers.size(), 10);

    for (const char *length : {"70000", "2147483647", "2147483648", "9223372036854775807", "-2"}) {
        server.codec.open("", "");
        server.codec.input(std::string("*") + length + "\r\n:1\r\n");
        assert_string_equal(server.codec.fault(), "its replies are not those of Redis");
    }

    for (const char *bytes : {"HTTP/1.1 400 Bad Request\r\n", "$-7\r\n", "*1\r\n*1\r\n*x\r\n"}) {
        server.codec.open("", "");
        server.codec.input(bytes);
        assert_string_equal(server.codec.fault(), "its replies are not those of Redis");
    }

    std::string deep;

    for (int i = 0; i < 20; i++) {
        deep += "*1\r\n";
    }

    server.codec.open("", "");
    server.codec.input(deep);
    assert_non_null(server.codec.fault());
}

UNIT_TEST(nothing_is_read_before_open)
{
    Harness server;

    server.codec.input("+OK\r\n");
    assert_int_equal(server.answers.size(), 0);
    server.codec.open("", "");
    server.codec.close();
    server.codec.input("+OK\r\n");
    assert_int_equal(server.answers.size(), 0);
}

}  // namespace
