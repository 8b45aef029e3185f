// The page for people: the files of http/status/page, around a table for browsers without JavaScript.

#include "http/status/page_data.h"
#include "http/status/status_families.h"

namespace idempotency {

namespace {

void put_html_text(Text &text, std::string_view value)
{
    for (const char &c : value) {
        switch (c) {
        case '<':
            text << "&lt;";
            break;
        case '>':
            text << "&gt;";
            break;
        case '&':
            text << "&amp;";
            break;
        default:
            text << std::string_view(&c, 1);
        }
    }
}

void put_html_rows(Text &text, const StatusPage &page, const Family &family)
{
    for (std::size_t i = 0; i < family.member_count; i++) {
        text << "<tr title=\"" << family.help << "\"><th scope=\"row\">" << family.name;

        if (family.label != nullptr) {
            text << " " << family.member(i);
        }

        text << "</th>";

        for (std::size_t j = 0; j < page.count; j++) {
            text << "<td>";

            if (has(page.stores[j], family)) {
                put_value(text, family.read(page.stores[j], i), "-");
            }

            text << "</td>";
        }

        text << "</tr>\n";
    }
}

}  // namespace

void put_html(Text &text, const StatusPage &page)
{
    text << kPageHead << "<table>\n<caption>Figures</caption>\n<tr><th scope=\"col\">store</th>";

    for (std::size_t i = 0; i < page.count; i++) {
        text << "<th scope=\"col\">";
        put_html_text(text, page.stores[i].name);
        text << "</th>";
    }

    text << "</tr>\n<tr><th scope=\"row\">engine</th>";

    for (std::size_t i = 0; i < page.count; i++) {
        text << "<td>" << page.stores[i].now.engine << "</td>";
    }

    text << "</tr>\n";

    for (std::size_t f = 0; f < kFamilyCount; f++) {
        if (any_has(page, kFamilies[f])) {
            put_html_rows(text, page, kFamilies[f]);
        }
    }

    text << "</table>" << kPageTail;
}

}  // namespace idempotency
