// A record: any bytes as a store may give them back, and records written by
// this module as the input tells.

#include <algorithm>
#include <cstring>
#include <memory>
#include <vector>

#include <libdeflate.h>

#include "core/hops.h"
#include "core/record.h"
#include "core/wire.h"
#include "fuzz.h"

using namespace idempotency;

extern "C" std::size_t LLVMFuzzerMutate(std::uint8_t *data, std::size_t size, std::size_t max_size);

namespace {

// Offsets of docs/format.md, stated anew: a target that took them from the
// code would agree with any mistake in them.
constexpr std::size_t kFlagsAt = 4;
constexpr std::size_t kStateAt = 7;
constexpr std::size_t kTokenAt = 24;
constexpr std::size_t kTokenEnd = 32;
constexpr std::size_t kExtensionsAt = 88;
constexpr std::size_t kBodyAt = 92;
constexpr std::size_t kChecksumAt = 96;
constexpr std::size_t kHeadEnd = 100;
constexpr std::size_t kResponseAt = kHeadEnd + 6;  // if that is the first extension
constexpr char kStates[] = {'R', 'U', 'K', 'N'};

// The key that every record of this target is of.
const KeyId kId = {{'f', 'u', 'z', 'z'}};

std::uint32_t checksum_of(const std::uint8_t *record, std::size_t size)
{
    std::size_t rest = size - kHeadEnd;
    std::size_t extensions = std::min<std::size_t>(wire::get_u32(record + kExtensionsAt), rest);
    std::uint32_t sum = 0;

    // body, extensions, head, key
    if (rest > extensions) {
        sum = libdeflate_crc32(sum, record + kHeadEnd + extensions, rest - extensions);
    }
    if (extensions > 0) {
        sum = libdeflate_crc32(sum, record + kHeadEnd, extensions);
    }
    sum = libdeflate_crc32(sum, record, kTokenAt);
    sum = libdeflate_crc32(sum, record + kTokenEnd, kChecksumAt - kTokenEnd);
    return libdeflate_crc32(sum, kId.bytes.data(), kId.bytes.size());
}

// A record in a block of its exact size, so that a byte too many is noticed.
struct Written {
    std::unique_ptr<unsigned char[]> block;
    std::size_t size;

    std::string_view view() const { return idempotency::wire::view(block.get(), size); }
};

struct Result {
    std::uint16_t status;
    std::string_view status_line;
    std::vector<Header> headers;
    std::string_view body;
    std::size_t first_piece;  // of the body
    std::string_view hops = {};
};

Written write_claim(const RecordHead &head, const Holder &holder, bool has_holder)
{
    std::size_t host = std::min(holder.host.size(), kLongestHost);
    std::size_t size = kRecordHeadSize + (has_holder ? kExtensionHeadSize + 4 + host : 0);
    Written out{std::make_unique<unsigned char[]>(size), size};
    RecordWriter writer(out.block.get(), head);

    if (has_holder) {
        writer.add_holder(holder);
    }
    writer.finish(kId);
    EXPECT(writer.size() == size);
    EXPECT(size <= kLargestClaim);
    return out;
}

Written write_result(const RecordHead &head, const Result &result)
{
    ResponseSizer sizer(result.status, result.status_line);

    for (const Header &header : result.headers) {
        sizer.add(header);
    }
    EXPECT(sizer.fits());
    EXPECT(sizer.count() == result.headers.size());

    std::size_t before_body = kRecordHeadSize + sizer.size() + size_of_hops(result.hops);
    std::size_t size = before_body + result.body.size();
    auto front = std::make_unique<unsigned char[]>(before_body);
    RecordWriter writer(front.get(), head);

    writer.start_response(result.status, result.status_line);
    for (const Header &header : result.headers) {
        writer.add(header);
    }
    writer.add_hops(result.hops);
    writer.add_body(result.body.substr(0, result.first_piece));
    writer.add_body({});
    writer.add_body(result.body.substr(result.first_piece));
    writer.finish(kId);
    EXPECT(writer.size() == before_body);

    Written out{std::make_unique<unsigned char[]>(size), size};
    std::memcpy(out.block.get(), front.get(), before_body);
    if (!result.body.empty()) {
        std::memcpy(out.block.get() + before_body, result.body.data(), result.body.size());
    }
    return out;
}

bool same(const RecordHead &a, const RecordHead &b)
{
    return a.state == b.state && a.tells_hold == b.tells_hold && a.claim == b.claim
           && a.token == b.token && a.fingerprint == b.fingerprint && a.since == b.since
           && a.lifetime == b.lifetime && a.hold == b.hold;
}

bool ends_a_line(std::string_view text)
{
    return text.find_first_of("\r\n") != std::string_view::npos;
}

// The headers of a sound record, all of them walked and looked at.
std::vector<Header> headers_of(const Record &record)
{
    std::vector<Header> headers;
    HeaderCursor cursor(record.fields);
    Header header;

    while (cursor.next(header)) {
        EXPECT(fuzz::lies_within(header.name, record.fields));
        EXPECT(fuzz::lies_within(header.value, record.fields));
        EXPECT(!header.name.empty());
        EXPECT(!ends_a_line(header.name));
        EXPECT(header.name.find(':') == std::string_view::npos);
        EXPECT(!ends_a_line(header.value));
        EXPECT(can_hold(header));
        headers.push_back(header);
    }

    EXPECT(cursor.done());
    EXPECT(headers.size() == record.header_count);
    return headers;
}

// The types of all extensions of a valid record.
std::vector<std::uint16_t> extension_types(std::string_view bytes)
{
    const unsigned char *in = idempotency::wire::octets(bytes);
    std::size_t end = kHeadEnd + idempotency::wire::get_u32(in + kExtensionsAt);
    std::vector<std::uint16_t> types;

    for (std::size_t at = kHeadEnd; at < end;) {
        types.push_back(idempotency::wire::get_u16(in + at));
        at += 6 + idempotency::wire::get_u32(in + at + 2);
        EXPECT(at <= end);
    }

    return types;
}

void check_any_bytes(std::string_view bytes)
{
    Record record;
    RecordFault fault = read_record(bytes, kId, record);

    EXPECT(describe(fault) != nullptr);
    if (fault != RecordFault::none) {
        return;
    }

    EXPECT(bytes.size() >= kHeadEnd);
    EXPECT(bytes.substr(0, 4) == std::string_view("IDM\1", 4));
    EXPECT(fuzz::lies_within(record.status_line, bytes));
    EXPECT(fuzz::lies_within(record.fields, bytes));
    EXPECT(fuzz::lies_within(record.body, bytes));
    EXPECT(fuzz::lies_within(record.holder.host, bytes));
    EXPECT(record.holder.host.size() <= kLongestHost);
    EXPECT(fuzz::lies_within(record.hops, bytes));
    EXPECT(record.hops.empty() || are_hops(record.hops));

    std::vector<std::uint16_t> types = extension_types(bytes);
    bool is_all_known =
        std::all_of(types.begin(), types.end(), [](std::uint16_t type) { return type <= 3; });
    bool has_holder = std::find(types.begin(), types.end(), 2) != types.end();
    bool has_response = std::find(types.begin(), types.end(), 1) != types.end();

    EXPECT(std::is_sorted(types.begin(), types.end()));
    EXPECT(std::adjacent_find(types.begin(), types.end()) == types.end());
    EXPECT(
        std::all_of(types.begin(), types.end(), [](std::uint16_t type) { return type < 0x8000; }));
    EXPECT(has_response == (record.head.state == State::kept));

    if (record.head.state == State::kept) {
        EXPECT(record.status >= 200 && record.status <= 999);
        EXPECT(!ends_a_line(record.status_line));
        headers_of(record);
    } else {
        EXPECT(record.status == 0 && record.header_count == 0);
        EXPECT(record.status_line.empty() && record.fields.empty() && record.body.empty());
        EXPECT(record.hops.empty());
    }

    // there is one way to write what this version can write
    if (is_all_known && !(has_response && has_holder)) {
        Written again =
            has_response
                ? write_result(record.head, {record.status, record.status_line, headers_of(record),
                                             record.body, record.body.size() / 2, record.hops})
                : write_claim(record.head, record.holder, has_holder);

        EXPECT(again.view() == bytes);
    }

    Written again{std::make_unique<unsigned char[]>(bytes.size()), bytes.size()};

    std::memcpy(again.block.get(), bytes.data(), bytes.size());

    // a store writes the token without looking at the rest
    Record other;

    idempotency::wire::put_u64(again.block.get() + kTokenAt, ~record.head.token);
    EXPECT(read_record(again.view(), kId, other) == RecordFault::none);
    EXPECT(other.head.token == ~record.head.token);

    // every other byte counts
    std::size_t at = bytes.size() - 1;

    again.block[at] ^= 1;
    EXPECT(read_record(again.view(), kId, other) != RecordFault::none);
    EXPECT(read_record(again.view().substr(0, at), kId, other) != RecordFault::none);

    // and so does the key
    KeyId stranger = kId;

    stranger.bytes[31] ^= 1;
    EXPECT(read_record(bytes, stranger, other) == RecordFault::corrupt);
}

// Replaces what the contract forbids, so that the writer's user keeps to it.
std::vector<char> made_safe(std::string_view text, bool is_name)
{
    std::vector<char> safe(text.begin(), text.end());

    for (char &c : safe) {
        if (ends_a_line({&c, 1}) || (is_name && c == ':')) {
            c = ' ';
        }
    }

    return safe;
}

void check_written(std::string_view input)
{
    fuzz::Steering steer(input);
    RecordHead head;

    head.state = static_cast<State>(kStates[steer.number(1) & 3]);
    head.tells_hold = (steer.number(1) & 1) != 0;
    head.claim.bytes.fill(static_cast<unsigned char>(steer.number(1)));
    head.hold = steer.number(8);
    head.token = steer.number(8);
    head.since = steer.number(8);
    head.lifetime = steer.number(8);
    head.fingerprint.bytes.fill(static_cast<unsigned char>(steer.number(1)));

    Record record;

    if (head.state != State::kept) {
        auto worker = static_cast<std::uint32_t>(steer.number(4));
        bool has_holder = (steer.number(1) & 1) != 0;
        std::string_view host = steer.text(steer.number(1));
        Written claim = write_claim(head, {worker, host}, has_holder);

        EXPECT(read_record(claim.view(), kId, record) == RecordFault::none);
        EXPECT(same(record.head, head));
        EXPECT(!has_holder
               || (record.holder.worker == worker
                   && record.holder.host == host.substr(0, kLongestHost)));
        return;
    }

    // the texts move when the outer vector grows, their bytes do not
    std::vector<std::vector<char>> texts;
    auto text = [&](std::size_t longest, bool is_name) -> std::string_view {
        texts.push_back(made_safe(steer.text(steer.number(1) % (longest + 1)), is_name));
        return {texts.back().data(), texts.back().size()};
    };

    Result result;

    result.status = static_cast<std::uint16_t>(200 + steer.number(2) % 800);
    result.status_line = text(40, false);
    for (std::size_t n = steer.number(1) % 32; n > 0 && !steer.done(); n--) {
        auto flags = static_cast<unsigned char>(steer.number(1) & (kHeaderFromSlot | kTrailer));
        std::string_view name = text(20, true);

        if (!name.empty()) {
            result.headers.push_back({name, text(255, false), flags});
        }
    }
    result.first_piece = steer.number(1);
    result.body = steer.text(input.size());
    result.first_piece %= result.body.size() + 1;

    Written written = write_result(head, result);

    EXPECT(idempotency::wire::get_u32(written.block.get() + kChecksumAt)
           == checksum_of(written.block.get(), written.size));
    EXPECT(read_record(written.view(), kId, record) == RecordFault::none);
    EXPECT(same(record.head, head));
    EXPECT(record.status == result.status);
    EXPECT(record.status_line == result.status_line);
    EXPECT(record.body == result.body);

    std::vector<Header> headers = headers_of(record);

    EXPECT(headers.size() == result.headers.size());
    for (std::size_t i = 0; i < headers.size(); i++) {
        EXPECT(headers[i].name == result.headers[i].name);
        EXPECT(headers[i].value == result.headers[i].value);
        EXPECT(headers[i].flags == result.headers[i].flags);
    }
}

// Makes the head of a record agree with its length.  `choice` leaves out one
// repair now and then, so that each check is met alone.
void repair(std::uint8_t *data, std::size_t size, unsigned choice)
{
    std::size_t rest = size - kHeadEnd;
    unsigned spared = choice % 16;

    if (spared != 1) {
        std::memcpy(data, "IDM\1", 4);
        data[kFlagsAt] &= 1;
        data[kFlagsAt + 1] = data[kFlagsAt + 2] = 0;
    }
    if (spared != 2 && std::memchr(kStates, data[kStateAt], sizeof(kStates)) == nullptr) {
        data[kStateAt] = static_cast<std::uint8_t>(kStates[data[kStateAt] % 4]);
    }
    if (spared != 3 && data[kStateAt] == 'K' && rest >= 12) {
        std::uint16_t status = idempotency::wire::get_u16(data + kResponseAt);

        idempotency::wire::put_u16(data + kHeadEnd, 1);
        idempotency::wire::put_u16(data + kResponseAt,
                                   static_cast<std::uint16_t>(200 + status % 800));
    }
    if (spared != 4) {
        std::uint32_t extensions = idempotency::wire::get_u32(data + kExtensionsAt);

        // mostly as they were: a wish for more than there is takes all
        extensions = static_cast<std::uint32_t>(
            extensions > rest || data[kStateAt] != 'K' ? rest : extensions);
        idempotency::wire::put_u32(data + kExtensionsAt, extensions);
        idempotency::wire::put_u32(data + kBodyAt, static_cast<std::uint32_t>(rest - extensions));
    }
    if (spared != 5) {
        idempotency::wire::put_u32(data + kChecksumAt, checksum_of(data, size));
    }
}

// Writes lengths into the fields that lead from one header to the next, their count and
// the length of the extension: bytes alone hardly ever get there.
void chain_headers(std::uint8_t *data, std::size_t size)
{
    constexpr std::size_t kFirst = kResponseAt + 6;
    std::size_t end = kHeadEnd + idempotency::wire::get_u32(data + kExtensionsAt);

    if (end > size || end < kFirst) {
        return;
    }

    idempotency::wire::put_u32(data + kHeadEnd + 2, static_cast<std::uint32_t>(end - kResponseAt));

    std::size_t at = kFirst + idempotency::wire::get_u16(data + kResponseAt + 4);

    if (at > end) {
        idempotency::wire::put_u16(data + kResponseAt + 4, 0);
        at = kFirst;
    }

    std::uint16_t count = 0;

    while (end - at >= 8) {
        std::size_t room = end - at - 7;
        std::size_t name = idempotency::wire::get_u16(data + at + 1);
        std::size_t value = idempotency::wire::get_u32(data + at + 3);

        if (name == 0 || name > room) {
            name = 1 + name % (room < 12 ? room : 12);
        }
        if (value > room - name || room - name - value < 8) {
            value = room - name;
        }
        data[at] &= 3;
        idempotency::wire::put_u16(data + at + 1, static_cast<std::uint16_t>(name));
        idempotency::wire::put_u32(data + at + 3, static_cast<std::uint32_t>(value));
        for (std::size_t i = 0; i < name + value; i++) {
            std::uint8_t &c = data[at + 7 + i];
            c = c == '\r' || c == '\n' || c == ':' ? 'a' : c;
        }
        at += 7 + name + value;
        count++;
    }

    if (at == end) {
        idempotency::wire::put_u16(data + kResponseAt + 2, count);
    }
}

}  // namespace

extern "C" std::size_t LLVMFuzzerCustomMutator(std::uint8_t *data, std::size_t size,
                                               std::size_t max_size, unsigned seed)
{
    size = LLVMFuzzerMutate(data, size, max_size);

    // an eighth stays as it is: it steers the writer, or is no record at all
    if (size < kHeadEnd || seed % 8 == 0) {
        return size;
    }
    if (seed / 8 % 4 == 0) {
        chain_headers(data, size);
    }
    repair(data, size, seed / 32);
    return size;
}

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t *data, std::size_t size)
{
    std::string_view input = fuzz::view(data, size);

    check_any_bytes(input);
    check_written(input);
    return 0;
}
