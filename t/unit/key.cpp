#include "cmocka.h"

#include <string>

#include "core/key.h"

using namespace idempotency;

namespace {

std::string value_of(const std::string &field)
{
    char room[kMaxKeyLength];
    ParsedKey key = parse_key(field, room);

    assert_int_equal(int(key.fault), int(KeyFault::none));
    return std::string(key.value);
}

KeyFault fault_of(const std::string &field)
{
    char room[kMaxKeyLength];
    ParsedKey key = parse_key(field, room);

    assert_true(key.fault == KeyFault::none || key.value.empty());
    return key.fault;
}

void expect_fault(const std::string &field, KeyFault expected)
{
    if (fault_of(field) != expected) {
        print_error("field: %s\n", field.c_str());
    }
    assert_int_equal(int(fault_of(field)), int(expected));
}

UNIT_TEST(a_bare_and_a_quoted_key_are_equal)
{
    assert_string_equal(value_of("uuid-abc-123").c_str(), "uuid-abc-123");
    assert_string_equal(value_of("\"uuid-abc-123\"").c_str(), "uuid-abc-123");
    assert_string_equal(value_of("\"two words\"").c_str(), "two words");
    assert_string_equal(value_of("\"a\\\"b\\\\c\"").c_str(), "a\"b\\c");
    assert_string_equal(value_of("a,b;c=\"d\"").c_str(), "a,b;c=\"d\"");
}

UNIT_TEST(parameters_are_ignored)
{
    for (const char *tail : {";a", ";a=1", "; a=-1.5;b", ";a=\"x\\\"y\"", ";*k=tok/en:1", ";a=?1",
                             ";a=:aGk=:", ";a=@1659578233", ";a=%\"f%c3%bc\""})
    {
        assert_string_equal(value_of(std::string("\"k\"") + tail).c_str(), "k");
    }
}

UNIT_TEST(faults_of_malformed_fields_are_named)
{
    for (const char *field : {"a b",
                              "a\tb",
                              "\x7f",
                              "caf\xc3\xa9",
                              "\"",
                              "\"a",
                              "\"a\\",
                              "\"a\\n\"",
                              "\"a\"b",
                              "\"a\", \"b\"",
                              "\"a\" ;b",
                              "\"a\";",
                              "\"a\";A",
                              "\"a\";b=",
                              "\"a\";b=1.",
                              "\"a\";b=1.2345",
                              "\"a\";b=1234567890123456",
                              "\"a\";b=\"x",
                              "\"a\";b=?2",
                              "\"a\";b=:x",
                              "\"a\";b=@1.5",
                              "\"a\";b=%\"%C3\"",
                              "\"caf\xc3\xa9\"",
                              "\"a\tb\""})
    {
        expect_fault(field, KeyFault::ill_formed);
    }

    expect_fault(std::string("a\0b", 3), KeyFault::ill_formed);
}

UNIT_TEST(white_space_around_is_ignored)
{
    for (const char *field : {"k", " k", "k ", "\tk \t", "\"k\"", "  \"k\"", "\"k\" ", "\"k\";a\t"})
    {
        assert_string_equal(value_of(field).c_str(), "k");
    }

    assert_string_equal(value_of(" \" k \" ").c_str(), " k ");
    expect_fault(" ", KeyFault::empty);
    expect_fault("\t \t", KeyFault::empty);
}

UNIT_TEST(length_is_that_of_the_value)
{
    std::string longest(kMaxKeyLength, 'x');
    std::string escaped = "\"";

    for (std::size_t i = 0; i < kMaxKeyLength; i++) {
        escaped += "\\\\";
    }

    assert_int_equal(value_of(longest).size(), kMaxKeyLength);
    assert_int_equal(value_of('"' + longest + '"').size(), kMaxKeyLength);
    assert_int_equal(value_of(escaped + '"').size(), kMaxKeyLength);

    expect_fault(longest + "x", KeyFault::too_long);
    expect_fault('"' + longest + "x\"", KeyFault::too_long);
    expect_fault('"' + longest + "x", KeyFault::ill_formed);
    expect_fault("", KeyFault::empty);
    expect_fault("\"\"", KeyFault::empty);
}

}  // namespace
