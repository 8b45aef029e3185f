// Text from outside (a user name, a host, a URI) for a place between quotation marks in a line of
// the log: other characters become `?`.

#pragma once

#include <cstddef>
#include <string_view>

namespace idempotency {

// Only printable ASCII and no quotation mark: the text can neither end its quotes nor begin
// another line.
inline char printable(char c) { return c >= ' ' && c <= '~' && c != '"' ? c : '?'; }

// At most Size bytes of the text.
template <std::size_t Size>
class PrintableText {
public:
    explicit PrintableText(std::string_view text)
    {
        for (char c : text.substr(0, Size)) {
            data_[size_++] = printable(c);
        }
    }

    const char *data() const { return data_; }
    std::size_t size() const { return size_; }

private:
    char data_[Size];
    std::size_t size_ = 0;
};

}  // namespace idempotency
