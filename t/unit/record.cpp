#include "cmocka.h"

#include <string>

#include "core/record.h"

using namespace idempotency;

namespace {

const KeyId kId = {{1, 2, 3}};

RecordHead head_of(State state)
{
    RecordHead head;

    head.state = state;
    head.token = 1700000000000001;
    head.fingerprint.bytes.fill(0xab);
    head.since = 1700000000123;
    head.lifetime = 86400000;
    return head;
}

std::string claim(State state)
{
    unsigned char out[kRecordHeadSize];
    RecordWriter writer(out, head_of(state));

    writer.finish(kId);
    return std::string(reinterpret_cast<char *>(out), writer.size());
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
    FieldSizer sizer("201 Made");
    RecordWriter writer(out, head_of(State::kept));

    writer.start_result(201, "201 Made");
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
    unsigned char out[128];
    RecordWriter writer(out, head_of(State::kept));
    Record record;

    writer.start_result(200, {});
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

    bytes.replace(kTokenOffset, kTokenSize, "\0\0\0\0\0\0\1\2", kTokenSize);
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

UNIT_TEST(every_flipped_bit_is_detected)
{
    std::string bytes = result("body", "");

    for (std::size_t i = 0; i < bytes.size(); i++) {
        if (i >= kTokenOffset && i < kTokenOffset + kTokenSize) {
            continue;
        }
        for (int bit = 0; bit < 8; bit++) {
            std::string broken = bytes;

            broken[i] = static_cast<char>(broken[i] ^ (1 << bit));
            assert_int_not_equal(int(fault_of(broken)), int(RecordFault::none));
        }
    }
}

// A checksum is not a signature, but a moved value is moved unchanged.
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

// A checksum is not a signature: bytes that could split a response are refused even
// if the checksum is correct.
UNIT_TEST(header_injection_is_refused)
{
    const Header bad[] = {
        {"X-A", "1\r\nSet-Cookie: b", 0},
        {"X A", "1", 0},
        {"", "1", 0},
        {"X-A", {"\0", 1}, 0},
    };

    for (const Header &header : bad) {
        unsigned char out[256];
        RecordWriter writer(out, head_of(State::kept));

        writer.start_result(200, "");
        writer.add(header);
        writer.finish(kId);
        assert_int_equal(int(fault_of(std::string(reinterpret_cast<char *>(out), writer.size()))),
                         int(RecordFault::corrupt));
    }
}

}  // namespace
