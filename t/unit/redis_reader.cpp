// The reader alone: streams of answers, cut in every way.

#include "cmocka.h"

#include <malloc.h>

#include <algorithm>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "redis/protocol/reader.h"

using namespace idempotency;

namespace {

constexpr std::size_t kLarge = RedisReader::kLargeValue;

// Keeps the values in memory that is no larger than they are, and writes down what was read.
struct Harness : RedisReader::Sink {
    Harness() : reader(*this) { assert_true(reader.restart()); }

    char *allocate_value(std::size_t size) override
    {
        sizes.push_back(size);

        if (refuses) {
            return nullptr;
        }

        value_size = size;
        place.reset(new char[size > 0 ? size : 1]());
        return place.get();
    }

    // False where it is not the protocol.
    bool feed(std::string_view bytes)
    {
        RedisReader::Result result;

        // a copy of its own: nothing may hold on to it
        std::vector<char> copy(bytes.begin(), bytes.end());

        bytes = {copy.data(), copy.size()};

        while ((result = reader.next(bytes, answer)) == RedisReader::Result::reply) {
            note();
        }

        assert_true(result == RedisReader::Result::garbage || bytes.empty());
        return result == RedisReader::Result::more;
    }

    void note()
    {
        bool has_value =
            answer.kind == ServerReply::Kind::pair || answer.kind == ServerReply::Kind::string;
        static const char *const kinds[] = {"nil",    "status", "error", "integer",
                                            "string", "pair",   "list"};

        log += std::string(kinds[static_cast<int>(answer.kind)]) + " "
               + std::to_string(answer.integer);

        if (answer.kind == ServerReply::Kind::error) {
            log += " " + std::string(answer.code) + " '" + std::string(answer.text) + "'";
        } else if (answer.kind == ServerReply::Kind::list) {
            log += " '" + std::string(answer.text) + "'";
        } else if (has_value && !refuses) {
            assert_non_null(place.get());
            values.emplace_back(place.get(), value_size);
            place.reset();
        }

        log += ";";
    }

    RedisReader reader;
    ServerReply answer;
    bool refuses = false;
    std::unique_ptr<char[]> place;
    std::size_t value_size = 0;
    std::vector<std::size_t> sizes;
    std::vector<std::string> values;
    std::string log;
};

std::string pair_of(const std::string &value, long long integer)
{
    return "*2\r\n$" + std::to_string(value.size()) + "\r\n" + value
           + "\r\n:" + std::to_string(integer) + "\r\n";
}

// Bytes that look like the protocol.
std::string bytes_of(std::size_t size)
{
    std::string out;

    while (out.size() < size) {
        out += "\r\n:1\r\n*2\r\n$20000\r\n" + std::string(1, static_cast<char>(out.size())) + '\0'
               + "$-1\r\n+\n-";
    }

    out.resize(size);
    return out;
}

struct Stream {
    std::string bytes;
    std::vector<std::string> values;
    std::string log;

    void add(const std::string &answer, const std::string &read)
    {
        bytes += answer;
        log += read + ";";
    }

    void add_pair(const std::string &value, long long integer)
    {
        add(pair_of(value, integer), "pair " + std::to_string(integer));
        values.push_back(value);
    }

    void add_value(const std::string &value)
    {
        add("$" + std::to_string(value.size()) + "\r\n" + value + "\r\n", "string 0");
        values.push_back(value);
    }
};

// Of every kind, with one value that is large.
Stream short_stream()
{
    Stream stream;

    stream.add("+OK\r\n", "status 0");
    stream.add_pair("", -1);
    stream.add_pair(bytes_of(40), 5);
    stream.add(":17\r\n", "integer 17");
    stream.add_pair(bytes_of(kLarge), 6);
    stream.add("-MOVED 1 host:2\r\n", "error 0 MOVED 'MOVED 1 host:2'");
    stream.add("$-1\r\n", "nil 0");
    stream.add_value("");
    stream.add_value(bytes_of(40));
    stream.add_value(bytes_of(kLarge));
    stream.add("*3\r\n$6\r\nmaster\r\n:9\r\n*1\r\n*3\r\n$1\r\n\n\r\n$1\r\n5\r\n$1\r\n7\r\n",
               "list 9 'master'");
    stream.add("*2\r\n$8\r\nsentinel\r\n*1\r\n$2\r\nm1\r\n", "list 0 'sentinel'");
    return stream;
}

// With values on both sides of what is large.
Stream long_stream()
{
    Stream stream = short_stream();

    stream.add_pair(bytes_of(kLarge + 1), 7);
    stream.add_pair(bytes_of(kLarge - 1), 8);
    stream.add_pair(bytes_of(3 * kLarge), 9);
    stream.add_value(bytes_of(kLarge - 1));
    stream.add_value(bytes_of(3 * kLarge));
    stream.add(":-3\r\n", "integer -3");
    return stream;
}

void expect(const Harness &harness, const Stream &stream)
{
    assert_string_equal(harness.log.c_str(), stream.log.c_str());
    assert_true(harness.values == stream.values);
}

UNIT_TEST(replies_in_two_pieces)
{
    Stream stream = short_stream();

    for (std::size_t cut = 0; cut <= stream.bytes.size(); cut++) {
        Harness harness;

        assert_true(harness.feed(std::string_view(stream.bytes).substr(0, cut)));
        assert_true(harness.feed(std::string_view(stream.bytes).substr(cut)));
        expect(harness, stream);
    }
}

UNIT_TEST(replies_byte_by_byte)
{
    Stream stream = long_stream();
    Harness harness;

    for (char byte : stream.bytes) {
        assert_true(harness.feed({&byte, 1}));
    }

    expect(harness, stream);
}

UNIT_TEST(replies_in_random_pieces)
{
    Stream stream = long_stream();
    std::mt19937 random(20251130);

    for (int i = 0; i < 200; i++) {
        Harness harness;
        std::string_view rest = stream.bytes;
        std::size_t most = i % 2 == 0 ? 40 : 40000;

        while (!rest.empty()) {
            std::size_t n = std::min<std::size_t>(rest.size(), 1 + random() % most);

            assert_true(harness.feed(rest.substr(0, n)));
            rest.remove_prefix(n);
        }

        expect(harness, stream);
    }
}

UNIT_TEST(a_value_without_memory_is_dropped)
{
    for (std::size_t size : {std::size_t(0), std::size_t(100), kLarge - 1, kLarge, 10 * kLarge}) {
        Harness harness;

        harness.refuses = true;
        assert_true(harness.feed(pair_of(bytes_of(size), 3) + ":4\r\n"));
        assert_string_equal(harness.log.c_str(), "pair 3;integer 4;");
        assert_true(harness.sizes == std::vector<std::size_t>{size});
    }
}

// The rest of the value must not touch what is gone.
UNIT_TEST(the_memory_of_a_value_may_be_dropped)
{
    Harness harness;
    std::string answer = pair_of(bytes_of(2 * kLarge), 3);

    assert_true(harness.feed(std::string_view(answer).substr(0, kLarge)));
    harness.place.reset();
    harness.reader.drop_value();
    harness.refuses = true;
    assert_true(harness.feed(std::string_view(answer).substr(kLarge)));
    assert_string_equal(harness.log.c_str(), "pair 3;");

    // and the next one has its own
    harness.refuses = false;
    assert_true(harness.feed(answer));
    assert_true(harness.values.back() == bytes_of(2 * kLarge));
}

UNIT_TEST(a_new_stream_has_no_old_bytes)
{
    Stream stream = long_stream();

    for (std::size_t cut = 0; cut < stream.bytes.size(); cut += 83) {
        Harness harness;

        assert_true(harness.feed(std::string_view(stream.bytes).substr(0, cut)));
        assert_true(harness.reader.restart());
        harness.place.reset();
        harness.log.clear();
        assert_true(harness.feed(pair_of("value", 1) + ":2\r\n"));
        assert_string_equal(harness.log.c_str(), "pair 1;integer 2;");
        assert_true(harness.values.back() == "value");
    }
}

UNIT_TEST(what_is_not_the_protocol_is_garbage)
{
    const std::string garbage[] = {
        "hello\r\n",
        "*0\r\n",
        "*1\r\n:1\r\n",
        "*2\r\n:1\r\n",
        "*2\r\n*2\r\n",
        "*2\r\n$-1\r\n:1\r\n",
        "*2\r\n+a\r\n",
        "*2\r\n$1\r\na\r\n$1\r\nb\r\n",
        "*3\r\n:1\r\n",
        "*3\r\n*1\r\n",
        "*2\r\n$x\r\na\r\n",
        "*2\r\n$1x\r\na\r\n",
        "*2\r\n$\r\na\r\n",
        "*2\r\n$99999999999999999999999\r\na\r\n",
        ":x\r\n",
        // a value that is not followed by the end of a line
        "*2\r\n$1\r\nabc:5\r\n:1\r\n",
        "*2\r\n$20000\r\n" + std::string(20000, 'x') + "\r:5\r\n:1\r\n",
    };

    for (const std::string &bytes : garbage) {
        Harness whole;

        if (whole.feed(bytes)) {
            fail_msg("taken for an answer: %.80s", bytes.c_str());
        }

        Harness slow;
        bool taken = true;

        for (std::size_t i = 0; i < bytes.size() && taken; i++) {
            taken = slow.feed(std::string_view(bytes).substr(i, 1));
        }

        assert_false(taken);
    }
}

// What is in use, also in pieces of memory of their own.
std::size_t memory_in_use()
{
    struct mallinfo2 info = mallinfo2();

    return info.uordblks + info.hblkhd;
}

// A stream that has no end costs no memory.
UNIT_TEST(the_memory_of_a_reply_is_limited)
{
    const std::string endless[] = {
        "-",
        "+",
        ":",
        "*2\r\n$3\r\nabc\r\n:",
        "*3\r\n$9999999\r\n",
        "*2\r\n$7\r\nvalue: \r\n$9999999\r\n",
    };
    const std::string more(10000, '1');

    for (const std::string &begin : endless) {
        Harness harness;
        std::size_t before = memory_in_use();

        assert_true(harness.feed(begin));

        bool taken = true;

        for (int i = 0; i < 10 && taken; i++) {
            taken = harness.feed(more);
        }

        assert_false(taken);
        assert_true(memory_in_use() < before + 4 * RedisReader::kMaxReply);
    }
}

UNIT_TEST(a_large_value_is_in_memory_once_or_not_at_all)
{
    constexpr std::size_t size = 64 * 1024 * 1024;
    const std::string piece(16 * 1024, 'x');

    for (bool refuses : {true, false}) {
        Harness harness;

        harness.refuses = refuses;
        assert_true(harness.feed("*2\r\n$" + std::to_string(size) + "\r\n"));

        std::size_t before = memory_in_use();
        std::size_t most = before;

        for (std::size_t i = 0; i < size; i += piece.size()) {
            assert_true(harness.feed(piece));
            most = std::max(most, memory_in_use());
        }

        assert_true(most < before + 256 * 1024);
        assert_true(harness.feed("\r\n:1\r\n"));
        assert_string_equal(harness.log.c_str(), "pair 1;");
        assert_true(refuses || harness.values.back() == std::string(size, 'x'));
    }
}

}  // namespace
