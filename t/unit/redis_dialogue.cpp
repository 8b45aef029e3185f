// Commands to a server: the test contains the replies of Redis.

#include "cmocka.h"

#include <string>
#include <vector>

#include <hiredis/hiredis.h>

#include "store/redis_dialogue.h"

using namespace idempotency;

namespace {

constexpr std::size_t kMost = 1000;

struct Harness : RedisDialogue::Events {
    void answered(const redisReply &reply) override
    {
        answers.push_back(describe(reply));

        if (!next.empty()) {
            std::string_view words[] = {next};

            dialogue.ask(words, 1);
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
        dialogue.ask(words.begin(), words.size());
    }

    std::string written()
    {
        std::string bytes;
        iovec piece;

        while (dialogue.output(&piece, 1) == 1) {
            bytes.append(static_cast<char *>(piece.iov_base), piece.iov_len);
            dialogue.wrote(piece.iov_len);
        }

        return bytes;
    }

    std::vector<std::string> answers;
    std::string next;
    RedisDialogue dialogue{kMost, *this};
};

UNIT_TEST(replies_arrive_in_order)
{
    Harness server;

    server.dialogue.open("", "");
    server.ask({"CLUSTER", "SLOTS"});
    assert_string_equal(server.written().c_str(), "*2\r\n$7\r\nCLUSTER\r\n$5\r\nSLOTS\r\n");

    server.next = "ROLE";
    server.dialogue.input("*2\r\n$1\r\na\r\n*");
    assert_int_equal(server.answers.size(), 0);
    server.dialogue.input("2\r\n:7\r\n$-1\r\n+OK\r\n");
    assert_int_equal(server.answers.size(), 2);
    assert_string_equal(server.answers[0].c_str(), "(a (7 nil))");
    assert_string_equal(server.answers[1].c_str(), "OK");
    assert_string_equal(server.written().c_str(), "*1\r\n$4\r\nROLE\r\n");
    assert_null(server.dialogue.fault());
}

UNIT_TEST(a_password_goes_first)
{
    Harness server;

    server.dialogue.open("app", "se cret");
    server.ask({"ROLE"});
    assert_string_equal(server.written().c_str(),
                        "*3\r\n$4\r\nAUTH\r\n$3\r\napp\r\n$7\r\nse cret\r\n*1\r\n$4\r\nROLE\r\n");
    server.dialogue.input("+OK\r\n$4\r\nhere\r\n");
    assert_int_equal(server.answers.size(), 1);
    assert_string_equal(server.answers[0].c_str(), "here");

    server.dialogue.open("", "secret");
    assert_string_equal(server.written().c_str(), "*2\r\n$4\r\nAUTH\r\n$6\r\nsecret\r\n");
}

UNIT_TEST(errors_are_faults)
{
    Harness server;

    server.dialogue.open("", "secret");
    server.dialogue.input("-WRONGPASS no user with secret is there\r\n+OK\r\n");
    assert_string_equal(server.dialogue.fault(), "it answers AUTH with WRONGPASS");
    assert_int_equal(server.answers.size(), 0);

    // and nothing is sent any more
    server.ask({"ROLE"});
    assert_string_equal(server.written().c_str(), "");

    server.dialogue.open("", "");
    assert_null(server.dialogue.fault());
    server.dialogue.input("-ERR This instance has cluster support disabled\r\n");
    assert_string_equal(server.dialogue.fault(),
                        "it answers ERR This instance has cluster support disabled");

    server.dialogue.open("", "");
    server.dialogue.input("-ERR \x1b[2J\xff" + std::string(500, 'x') + "\r\n");
    assert_int_equal(std::string(server.dialogue.fault()).find("it answers ERR ?[2J?xxx"), 0);
    assert_true(std::string(server.dialogue.fault()).size() < 100);
}

UNIT_TEST(replies_are_bounded)
{
    Harness server;

    server.dialogue.open("", "");
    server.dialogue.input("$999999\r\n" + std::string(kMost - 9, 'a'));
    assert_null(server.dialogue.fault());
    server.dialogue.input("a");
    assert_string_equal(server.dialogue.fault(), "its answer is too long");

    // for each reply again
    server.dialogue.open("", "");

    for (int i = 0; i < 10; i++) {
        server.dialogue.input("$900\r\n" + std::string(900, 'a') + "\r\n");
        assert_null(server.dialogue.fault());
    }

    assert_int_equal(server.answers.size(), 10);

    for (const char *length : {"70000", "2147483647", "2147483648", "9223372036854775807", "-2"}) {
        server.dialogue.open("", "");
        server.dialogue.input(std::string("*") + length + "\r\n:1\r\n");
        assert_string_equal(server.dialogue.fault(), "its answers are not those of Redis");
    }

    for (const char *bytes : {"HTTP/1.1 400 Bad Request\r\n", "$-7\r\n", "*1\r\n*1\r\n*x\r\n"}) {
        server.dialogue.open("", "");
        server.dialogue.input(bytes);
        assert_string_equal(server.dialogue.fault(), "its answers are not those of Redis");
    }

    std::string deep;

    for (int i = 0; i < 20; i++) {
        deep += "*1\r\n";
    }

    server.dialogue.open("", "");
    server.dialogue.input(deep);
    assert_non_null(server.dialogue.fault());
}

UNIT_TEST(no_reply_is_accepted_before_the_opening)
{
    Harness server;

    server.dialogue.input("+OK\r\n");
    assert_int_equal(server.answers.size(), 0);
    server.dialogue.open("", "");
    server.dialogue.close();
    server.dialogue.input("+OK\r\n");
    assert_int_equal(server.answers.size(), 0);
}

}  // namespace
