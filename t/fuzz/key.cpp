// The value of an Idempotency-Key field, as any client may send it.

#include <string>

#include "core/key.h"
#include "fuzz.h"

using namespace idempotency;

namespace {

// A result together with the room its value may lie in.
struct Parsed {
    explicit Parsed(std::string_view field) : key(parse_key(field, room)) {}

    char room[kMaxKeyLength];
    ParsedKey key;

    bool is(std::string_view value) const
    {
        return key.fault == KeyFault::none && key.value == value;
    }
};

// RFC 9651, section 4.1.6
std::string serialize(std::string_view value)
{
    std::string out = "\"";

    for (char c : value) {
        if (c == '"' || c == '\\') {
            out += '\\';
        }
        out += c;
    }

    return out += '"';
}

bool all_between(std::string_view value, char first, char last)
{
    for (char c : value) {
        if (c < first || c > last) {
            return false;
        }
    }

    return true;
}

// Where the string of a sound quoted field ends.
std::size_t end_of_string(std::string_view field)
{
    std::size_t i = 1;

    while (field[i] != '"') {
        i += field[i] == '\\' ? 2 : 1;
    }

    return i + 1;
}

void check_value(std::string_view field, const Parsed &parsed)
{
    std::string_view value = parsed.key.value;
    bool quoted = field.front() == '"';

    EXPECT(value.size() >= 1 && value.size() <= kMaxKeyLength);
    EXPECT(fuzz::lies_within(value, field)
           || fuzz::lies_within(value, {parsed.room, sizeof(parsed.room)}));
    EXPECT(all_between(value, quoted ? ' ' : '!', '~'));

    // a serialised value is that value again, with and without parameters
    std::string serialized = serialize(value);

    EXPECT(Parsed(serialized).is(value));
    EXPECT(Parsed(serialized + ";a;b=1.5; c=\"\\\"\"").is(value));
    EXPECT(Parsed(serialized + ";").key.fault == KeyFault::ill_formed);
    EXPECT(Parsed(serialized + ",").key.fault == KeyFault::ill_formed);

    // both forms name one key, where there is a bare one
    if (all_between(value, '!', '~') && value.front() != '"') {
        EXPECT(Parsed(value).is(value));
    }

    if (!quoted) {
        EXPECT(value == field);
        return;
    }

    // parameters change nothing, and more of them may follow
    std::size_t end = end_of_string(field);

    EXPECT(serialized == field.substr(0, end));
    EXPECT(Parsed(field.substr(0, end)).is(value));
    EXPECT(Parsed(std::string(field) + ";z=?0").is(value));
    EXPECT(Parsed(field.substr(0, end - 1)).key.fault == KeyFault::ill_formed);
}

void check_fault(std::string_view field, const Parsed &parsed)
{
    EXPECT(parsed.key.value.empty());

    switch (parsed.key.fault) {
    case KeyFault::empty:
        EXPECT(field.empty() || field.substr(0, 2) == "\"\"");
        break;

    case KeyFault::too_long:
        EXPECT(field.size() > kMaxKeyLength);
        EXPECT(all_between(field, ' ', '~'));
        break;

    case KeyFault::ill_formed:
        // nothing that follows a bad byte mends it
        if (field.front() != '"') {
            EXPECT(!all_between(field, '!', '~'));
            EXPECT(Parsed(std::string(field) + "x").key.fault == KeyFault::ill_formed);
        }
        break;

    case KeyFault::none:
        break;
    }
}

void check(std::string_view padded)
{
    Parsed parsed(padded);
    std::string_view field = padded;

    // what follows looks at the field without white space around it
    while (!field.empty() && (field.front() == ' ' || field.front() == '\t')) {
        field.remove_prefix(1);
    }
    while (!field.empty() && (field.back() == ' ' || field.back() == '\t')) {
        field.remove_suffix(1);
    }
    EXPECT(Parsed(field).key.fault == parsed.key.fault);
    EXPECT(Parsed(field).key.value == parsed.key.value);

    if (parsed.key.fault == KeyFault::none) {
        check_value(field, parsed);
    } else {
        check_fault(field, parsed);
    }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t *data, std::size_t size)
{
    std::string_view input = fuzz::view(data, size);

    check(input);

    // any printable input is a value that can be written as a string, and
    // parameters of which most inputs never get the beginning right
    if (!input.empty() && input.size() <= kMaxKeyLength && all_between(input, ' ', '~')) {
        EXPECT(Parsed(serialize(input)).is(input));
    }
    check("\"k\";p=" + std::string(input));
    return 0;
}
