#include "core/key.h"

#include "core/token.h"

namespace idempotency {

namespace {

bool is_visible(char c) { return c > 0x20 && c < 0x7f; }
bool is_printable(char c) { return c >= 0x20 && c < 0x7f; }
bool is_digit(char c) { return c >= '0' && c <= '9'; }
bool is_lower(char c) { return c >= 'a' && c <= 'z'; }
bool is_alpha(char c) { return is_lower(c) || (c >= 'A' && c <= 'Z'); }
bool is_lower_hex(char c) { return is_digit(c) || (c >= 'a' && c <= 'f'); }

// A cursor in a Structured Field.  Each `skip_` function skips one production of RFC 9651, section
// 4.2, and returns false if the text is something else.
class FieldCursor {
public:
    explicit FieldCursor(std::string_view text) : rest_(text) {}

    bool done() const { return rest_.empty(); }
    char peek() const { return rest_.empty() ? '\0' : rest_.front(); }

    char next()
    {
        char c = rest_.front();
        rest_.remove_prefix(1);
        return c;
    }

    bool take(char c)
    {
        if (done() || peek() != c) {
            return false;
        }

        rest_.remove_prefix(1);
        return true;
    }

    // Section 4.2.3.2: parameters up to the end of the field.
    bool skip_parameters()
    {
        while (take(';')) {
            skip_while([](char c) { return c == ' '; });

            if (!skip_parameter_key()) {
                return false;
            }

            if (take('=') && !skip_bare_item()) {
                return false;
            }
        }

        return done();
    }

private:
    template <typename Predicate>
    std::size_t skip_while(Predicate belongs)
    {
        std::size_t n = 0;

        while (!done() && belongs(peek())) {
            rest_.remove_prefix(1);
            n++;
        }

        return n;
    }

    bool skip_parameter_key()
    {
        if (!is_lower(peek()) && peek() != '*') {
            return false;
        }

        skip_while([](char c) {
            return is_lower(c) || is_digit(c) || c == '_' || c == '-' || c == '.' || c == '*';
        });

        return true;
    }

    bool skip_bare_item()
    {
        char c = peek();

        if (c == '-' || is_digit(c)) {
            return skip_number(true);
        }
        if (take('"')) {
            return skip_string();
        }
        if (take('?')) {
            return take('0') || take('1');
        }
        if (take('@')) {
            return skip_number(false);
        }
        if (take(':')) {
            return skip_byte_sequence();
        }
        if (take('%')) {
            return take('"') && skip_display_string();
        }
        if (is_alpha(c) || c == '*') {
            skip_while([](char t) { return is_token_char(t) || t == ':' || t == '/'; });
            return true;
        }

        return false;
    }

    // Section 4.2.4: up to 15 digits, or up to 12 before the point and 3 after it.
    bool skip_number(bool may_have_point)
    {
        take('-');

        std::size_t whole = skip_while(is_digit);

        if (whole == 0 || whole > 15) {
            return false;
        }

        if (peek() != '.') {
            return true;
        }

        if (!may_have_point || whole > 12) {
            return false;
        }

        take('.');

        std::size_t fraction = skip_while(is_digit);
        return fraction >= 1 && fraction <= 3;
    }

    bool skip_string()
    {
        while (!done()) {
            char c = next();

            if (c == '"') {
                return true;
            }
            if (c == '\\' && !take('"') && !take('\\')) {
                return false;
            }
            if (!is_printable(c)) {
                return false;
            }
        }

        return false;
    }

    bool skip_byte_sequence()
    {
        skip_while(
            [](char c) { return is_alpha(c) || is_digit(c) || c == '+' || c == '/' || c == '='; });

        return take(':');
    }

    bool skip_display_string()
    {
        while (!done()) {
            char c = next();

            if (c == '"') {
                return true;
            }
            if (!is_printable(c)) {
                return false;
            }
            if (c == '%') {
                for (int i = 0; i < 2; i++) {
                    if (!is_lower_hex(peek())) {
                        return false;
                    }
                    next();
                }
            }
        }

        return false;
    }

    std::string_view rest_;
};

ParsedKey fault(KeyFault f) { return {f, {}}; }

// RFC 9110, section 5.5: white space around a value is not a part of it.
std::string_view without_outer_space(std::string_view field)
{
    std::size_t first = field.find_first_not_of(" \t");

    if (first == std::string_view::npos) {
        return {};
    }

    return field.substr(first, field.find_last_not_of(" \t") + 1 - first);
}

ParsedKey parse_bare(std::string_view field)
{
    for (char c : field) {
        if (!is_visible(c)) {
            return fault(KeyFault::ill_formed);
        }
    }

    if (field.size() > kMaxKeyLength) {
        return fault(KeyFault::too_long);
    }

    return {KeyFault::none, field};
}

ParsedKey parse_quoted(std::string_view field, char (&buffer)[kMaxKeyLength])
{
    FieldCursor cursor(field.substr(1));
    std::size_t length = 0;

    for (;;) {
        if (cursor.done()) {
            return fault(KeyFault::ill_formed);
        }

        char c = cursor.next();

        if (c == '"') {
            break;
        }

        if (!is_printable(c)) {
            return fault(KeyFault::ill_formed);
        }

        if (c == '\\') {
            if (cursor.peek() != '"' && cursor.peek() != '\\') {
                return fault(KeyFault::ill_formed);
            }
            c = cursor.next();
        }

        // a key that is too long is read to its end: `ill_formed` takes precedence
        if (length < kMaxKeyLength) {
            buffer[length] = c;
        }
        length++;
    }

    if (!cursor.skip_parameters()) {
        return fault(KeyFault::ill_formed);
    }

    if (length == 0) {
        return fault(KeyFault::empty);
    }

    if (length > kMaxKeyLength) {
        return fault(KeyFault::too_long);
    }

    return {KeyFault::none, {buffer, length}};
}

}  // namespace

ParsedKey parse_key(std::string_view field, char (&buffer)[kMaxKeyLength])
{
    field = without_outer_space(field);

    if (field.empty()) {
        return fault(KeyFault::empty);
    }

    return field.front() == '"' ? parse_quoted(field, buffer) : parse_bare(field);
}

}  // namespace idempotency
