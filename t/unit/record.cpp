#include "cmocka.h"

#include <string>

#include <libdeflate.h>

#include "core/hops.h"
#include "core/record.h"

using namespace idempotency;

namespace {

const KeyId kId = {{1, 2, 3}};

RecordHead head_of(State state)
{
    RecordHead head;

    head.state = state;
    head.tells_hold = true;
    head.claim.bytes.fill(0xcd);
    head.token = 1700000000000001;
    head.fingerprint.bytes.fill(0xab);
    head.since = 1700000000123;
    head.lifetime = 86400000;
    head.hold = 3600000;
    return head;
}

std::string claim(State state)
{
    unsigned char out[kLargestClaim];
    RecordWriter writer(out, head_of(state));

    writer.add_holder({4711, "web-1"});
    writer.finish(kId);
    return std::string(reinterpret_cast<char *>(out), writer.size());
}

// A kept record with one header field, and the checksum right whatever the field is.
std::string with_header(const Header &header)
{
    unsigned char out[256];
    RecordWriter writer(out, head_of(State::kept));

    writer.start_response(200, "");
    writer.add(header);
    writer.finish(kId);
    return std::string(reinterpret_cast<char *>(out), writer.size());
}

// The record with another extension behind its own, and the checksum right.
std::string with_extension(std::string record, std::uint16_t type, const std::string &data)
{
    auto number = [](std::uint64_t value, std::size_t size) {
        std::string out(size, '\0');

        for (std::size_t i = size; i-- > 0; value >>= 8) {
            out[i] = static_cast<char>(value);
        }
        return out;
    };
    std::string added = number(type, 2) + number(data.size(), 4) + data;

    record += added;
    record.replace(88, 4, number(record.size() - kRecordHeadSize, 4));

    std::uint32_t sum = libdeflate_crc32(0, record.data() + 100, record.size() - 100);

    sum = libdeflate_crc32(sum, record.data(), 24);
    sum = libdeflate_crc32(sum, record.data() + 32, 64);
    sum = libdeflate_crc32(sum, kId.bytes.data(), kId.bytes.size());
    return record.replace(96, 4, number(sum, 4));
}

const Header kHeaders[] = {
    {"Content-Type", "application/json", 0},
    {"Set-Cookie", "a=1", 0},
    {"Set-Cookie", "b=2", 0},
    {"Location", "/v1/listings/1", kHeaderFromSlot},
    {"X-Empty", "", 0},
};

std::string result(std::string_view first_piece, std::string_view second_piece)
{
    unsigned char out[1024];
    ResponseSizer sizer(201, "201 Made");
    RecordWriter writer(out, head_of(State::kept));

    writer.start_response(201, "201 Made");
    for (const Header &header : kHeaders) {
        sizer.add(header);
        writer.add(header);
    }
    writer.add_body(first_piece);
    writer.add_body(second_piece);
    writer.finish(kId);

    assert_true(sizer.fits());
    assert_int_equal(writer.size(), kRecordHeadSize + sizer.size());

    std::string bytes(reinterpret_cast<char *>(out), writer.size());
    return bytes.append(first_piece).append(second_piece);
}

RecordFault fault_of(const std::string &bytes)
{
    Record record;
    return read_record(bytes, kId, record);
}

std::string encoded_hops()
{
    unsigned char out[kLargestHops];
    HopWriter writer(out);

    writer.add({"/index.php"});
    writer.add({"@app", true, 404, true});
    writer.finish("[.]php$");
    assert_true(writer.fits());
    return std::string(writer.data());
}

// A kept record with these bytes as hops, and the checksum right whatever they are.
std::string with_hops(std::string_view hops)
{
    unsigned char out[kRecordHeadSize + 2048];
    RecordWriter writer(out, head_of(State::kept));

    writer.start_response(200, "");
    writer.add_hops(hops);
    writer.add_body("{}");
    writer.finish(kId);
    return std::string(reinterpret_cast<char *>(out), writer.size()).append("{}");
}

UNIT_TEST(hops_are_read_as_written)
{
    std::string bytes = with_hops(encoded_hops());
    Record record;

    assert_int_equal(int(read_record(bytes, kId, record)), int(RecordFault::none));
    assert_true(record.body == "{}");

    HopCursor cursor(record.hops);
    Hop hop;

    assert_true(cursor.next(hop));
    assert_true(hop.target == "/index.php" && !hop.becomes_get && hop.status == 0
                && !hop.ends_pages);
    assert_true(cursor.next(hop));
    assert_true(hop.target == "@app" && hop.becomes_get && hop.status == 404 && hop.ends_pages);
    assert_false(cursor.next(hop));
    assert_true(cursor.location() == "[.]php$");
}

// docs/format.md has the same bytes.
UNIT_TEST(hops_have_the_bytes_of_the_test_vector)
{
    constexpr unsigned char vector[] = {
        0x02, 0x00, 0x00, 0x00, 0x00, 0x0a, 0x2f, 0x69, 0x6e, 0x64, 0x65,
        0x78, 0x2e, 0x70, 0x68, 0x70, 0x03, 0x01, 0x94, 0x00, 0x04, 0x40,
        0x61, 0x70, 0x70, 0x5b, 0x2e, 0x5d, 0x70, 0x68, 0x70, 0x24,
    };

    assert_true(encoded_hops()
                == std::string(reinterpret_cast<const char *>(vector), sizeof(vector)));
}

UNIT_TEST(a_record_without_hops_has_no_such_extension)
{
    Record record;

    assert_int_equal(int(read_record(with_hops(""), kId, record)), int(RecordFault::none));
    assert_true(record.hops.empty());
}

UNIT_TEST(the_number_and_the_size_of_hops_are_limited)
{
    unsigned char out[kLargestHops];
    HopWriter many(out);

    for (std::size_t i = 0; i < kMostHops; i++) {
        many.add({"/a"});
    }
    assert_true(many.fits());
    many.add({"/a"});
    assert_false(many.fits());

    // 1 + 5 + 1018 bytes
    std::string target(kLargestHops - 6, 'a');
    HopWriter exact(out);

    exact.add({target});
    assert_true(exact.fits());
    assert_int_equal(exact.data().size(), kLargestHops);
    exact.finish("");
    assert_true(exact.fits());
    exact.finish("/");
    assert_false(exact.fits());

    HopWriter large(out);

    large.add({target + "a"});
    assert_false(large.fits());
}

UNIT_TEST(hops_that_are_none_are_refused)
{
    std::string good = encoded_hops();
    std::string none = good, many = good, flag = good, empty = good, cut = good.substr(0, 9);

    none[0] = 0;
    many[0] = 11;
    flag[1] = 4;
    empty[4] = empty[5] = 0;

    for (const std::string &bad : {none, many, flag, empty, cut, std::string(1025, '\1')}) {
        assert_int_equal(int(fault_of(with_hops(bad))), int(RecordFault::corrupt));
    }
}

UNIT_TEST(a_claim_with_hops_is_refused)
{
    assert_int_equal(int(fault_of(with_extension(claim(State::running), 3, encoded_hops()))),
                     int(RecordFault::corrupt));
}

UNIT_TEST(every_state_is_read_as_written)
{
    for (State state : {State::running, State::unknown, State::not_kept}) {
        std::string bytes = claim(state);
        Record record;

        assert_int_equal(int(read_record(bytes, kId, record)), int(RecordFault::none));
        assert_int_equal(int(record.head.state), int(state));
        assert_true(record.head.token == head_of(state).token);
        assert_true(record.head.fingerprint == head_of(state).fingerprint);
        assert_true(record.head.since == head_of(state).since);
        assert_true(record.head.lifetime == head_of(state).lifetime);
        assert_true(record.head.claim == head_of(state).claim);
        assert_true(record.head.hold == head_of(state).hold);
        assert_true(record.head.tells_hold);
        assert_int_equal(record.holder.worker, 4711);
        assert_true(record.holder.host == "web-1");
        assert_true(state_of(bytes) == state);
        assert_true(claim_of(bytes) == head_of(state).claim);
        assert_true(token_of(bytes) == head_of(state).token);
    }
}

UNIT_TEST(a_result_is_read_as_written)
{
    std::string bytes = result(std::string("{\"a\":\0", 6), "1}");
    Record record;

    assert_int_equal(int(read_record(bytes, kId, record)), int(RecordFault::none));
    assert_int_equal(record.status, 201);
    assert_true(record.status_line == "201 Made");
    assert_true(record.body
                == std::string_view("{\"a\":\0"
                                    "1}",
                                    8));

    HeaderCursor cursor(record.fields);
    for (const Header &expected : kHeaders) {
        Header header;

        assert_true(cursor.next(header));
        assert_true(header.name == expected.name);
        assert_true(header.value == expected.value);
        assert_int_equal(header.flags, expected.flags);
    }
    assert_true(cursor.done());
}

// nginx's last buffer often has no bytes and no address.
UNIT_TEST(an_empty_view_may_be_null)
{
    unsigned char out[256];
    RecordWriter writer(out, head_of(State::kept));
    Record record;

    writer.start_response(200, {});
    writer.add({"X-Empty", {}, 0});
    writer.add_body("body");
    writer.add_body({});
    writer.finish(kId);

    std::string bytes(reinterpret_cast<char *>(out), writer.size());
    bytes += "body";
    assert_int_equal(int(read_record(bytes, kId, record)), int(RecordFault::none));
    assert_true(record.body == "body");
}

UNIT_TEST(a_store_may_write_the_token)
{
    std::string bytes = claim(State::running);
    Record record;

    bytes.replace(kTokenOffset, sizeof(Token), "\0\0\0\0\0\0\1\2", sizeof(Token));
    assert_int_equal(int(read_record(bytes, kId, record)), int(RecordFault::none));
    assert_true(record.head.token == 0x102);
}

UNIT_TEST(every_shorter_or_longer_record_is_refused)
{
    std::string bytes = result("body", "");

    for (std::size_t n = 0; n < bytes.size(); n++) {
        assert_int_not_equal(int(fault_of(bytes.substr(0, n))), int(RecordFault::none));
    }
    assert_int_equal(int(fault_of(bytes + "x")), int(RecordFault::truncated));
}

UNIT_TEST(every_flipped_bit_is_noticed)
{
    std::string bytes = result("body", "");

    for (std::size_t i = 0; i < bytes.size(); i++) {
        if (i >= kTokenOffset && i < kTokenOffset + sizeof(Token)) {
            continue;
        }
        for (int bit = 0; bit < 8; bit++) {
            std::string broken = bytes;

            broken[i] = static_cast<char>(broken[i] ^ (1 << bit));
            assert_int_not_equal(int(fault_of(broken)), int(RecordFault::none));
        }
    }
}

// A checksum is no signature, but whoever moves a value moves it as it is.
UNIT_TEST(a_record_of_another_key_is_refused)
{
    KeyId other = kId;
    Record record;

    for (std::size_t i = 0; i < other.bytes.size(); i++) {
        other.bytes[i] ^= 0x80;
        for (const std::string &bytes : {claim(State::running), result("body", "")}) {
            assert_int_equal(int(read_record(bytes, other, record)), int(RecordFault::corrupt));
        }
        other.bytes[i] ^= 0x80;
    }
}

UNIT_TEST(faults_have_names)
{
    std::string bytes = claim(State::running);
    std::string newer = bytes;

    newer[3] = 3;
    assert_int_equal(int(fault_of("hello, world")), int(RecordFault::foreign));
    assert_int_equal(int(fault_of("")), int(RecordFault::foreign));
    assert_int_equal(int(fault_of(newer)), int(RecordFault::newer));
    newer[3] = 2;
    assert_int_equal(int(fault_of(newer)), int(RecordFault::sealed));
    assert_int_equal(int(fault_of(bytes.substr(0, 40))), int(RecordFault::truncated));
}

// A checksum is no signature: what could split a response is refused even
// where the sum is right.
UNIT_TEST(header_injection_is_refused)
{
    const Header bad[] = {
        {"X-A", "1\r\nSet-Cookie: b", 0},
        {"X-A", "1\rb", 0},
        {"X\nA", "1", 0},
        {"X:A", "1", 0},
        {"", "1", 0},
        {"X-A", "1", 4},
    };

    for (const Header &header : bad) {
        ResponseSizer sizer(200, "");

        sizer.add(header);
        assert_false(sizer.fits());
        assert_int_equal(int(fault_of(with_header(header))), int(RecordFault::corrupt));
    }
}

// What nginx passes on, be it valid HTTP or not.
UNIT_TEST(whatever_the_writer_takes_the_reader_takes)
{
    for (int c = 0; c < 256; c++) {
        std::string text = {'X', static_cast<char>(c), 'Y'};

        for (const Header &header : {Header{text, "value", 0}, Header{"X-A", text, kTrailer}}) {
            ResponseSizer sizer(200, "");

            sizer.add(header);
            assert_int_equal(sizer.fits(), can_hold(header));
            assert_int_equal(fault_of(with_header(header)) == RecordFault::none, sizer.fits());
        }

        bool is_name = c != ':' && c != '\r' && c != '\n';
        bool is_value = c != '\r' && c != '\n';

        assert_int_equal(can_hold({text, "value", 0}), is_name);
        assert_int_equal(can_hold({"X-A", text, 0}), is_value);
        assert_int_equal(ResponseSizer(200, text).fits(), is_value);
    }

    for (unsigned status : {0u, 100u, 199u, 1000u, 70000u}) {
        assert_false(ResponseSizer(status, "").fits());
    }
    for (unsigned status : {200u, 299u, 600u, 999u}) {
        assert_true(ResponseSizer(status, "").fits());
    }
    assert_false(ResponseSizer(200, std::string(65536, 'x')).fits());
}

UNIT_TEST(an_unknown_extension_is_skipped)
{
    std::string bytes = with_extension(claim(State::running), 77, "of a later version");
    Record record;

    assert_int_equal(int(read_record(bytes, kId, record)), int(RecordFault::none));
    assert_true(record.holder.host == "web-1");
    assert_true(record.head.claim == head_of(State::running).claim);
}

UNIT_TEST(an_extension_that_must_be_understood_is_not_skipped)
{
    std::string bytes = with_extension(claim(State::running), kMustUnderstand | 1, "");

    assert_int_equal(int(fault_of(bytes)), int(RecordFault::newer));
}

UNIT_TEST(extensions_come_once_and_in_order)
{
    for (std::uint16_t type : {std::uint16_t(0), std::uint16_t(1), std::uint16_t(2)}) {
        assert_int_equal(int(fault_of(with_extension(claim(State::running), type, "1234"))),
                         int(RecordFault::corrupt));
    }
}

UNIT_TEST(only_a_kept_record_has_a_response)
{
    std::string kept = claim(State::kept);

    assert_int_equal(int(fault_of(kept)), int(RecordFault::corrupt));
    assert_int_equal(int(fault_of(with_extension(claim(State::unknown).substr(0, 100), 1,
                                                 std::string("\0\xc8\0\0\0\0", 6)))),
                     int(RecordFault::corrupt));
}

UNIT_TEST(a_long_host_name_is_cut)
{
    unsigned char out[kLargestClaim];
    std::string host(200, 'h');
    RecordWriter writer(out, head_of(State::running));
    Record record;

    writer.add_holder({1, host});
    writer.finish(kId);
    assert_int_equal(writer.size(), kLargestClaim);
    assert_int_equal(int(read_record({reinterpret_cast<char *>(out), writer.size()}, kId, record)),
                     int(RecordFault::none));
    assert_true(record.holder.host == host.substr(0, kLongestHost));
}

}  // namespace
