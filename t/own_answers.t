# idempotency_answer: another status, or another code, for a response of the module itself.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";

use Test::More;
use IdempotencyTest::Assertions;
use IdempotencyTest::Environment qw(app);
use IdempotencyTest::Nginx;

my $nginx = IdempotencyTest::Nginx->start(server => <<'END');
        idempotency main required;
        idempotency_scope off;
        idempotency_answer idempotency_key_reused 409 code=conflict;
        idempotency_answer idempotency_key_missing 428;
        location / { proxy_pass http://app; }
        location /unregistered/ { idempotency_answer idempotency_key_missing 499; proxy_pass http://app; }
        location /base/ { idempotency_answer request_in_progress 425 code=still-running; idempotency_problem_base https://errors.example/; proxy_pass http://app; }
        location /page/ { idempotency_answer idempotency_key_missing 451; error_page 451 /451.html; error_page 400 /400.html; proxy_pass http://app; }
        location /broken/ { idempotency_answer outcome_unknown 424; proxy_pass http://app; }
        location = /451.html { internal; return 451 "the page of 451"; }
END

sub ask {
    my ($path, $key, %request) = @_;
    return $nginx->request(path => $path, (defined $key ? (key => $key) : ()), %request);
}

ask('/a', 'a', body => 'one');
my $answer = ask('/a', 'a', body => 'two');
is_problem $answer, 409, 'conflict', 'another status and another code';
like $answer->body, qr/"title":"Conflict","status":409/, 'the title is that of the status';
like $answer->status_line, qr/409 Conflict/, 'and so is the status line';

$answer = ask('/a', undef);
is_problem $answer, 428, 'idempotency_key_missing', 'another status alone';
like $answer->status_line, qr/428 Precondition Required/, 'it has its phrase';

$answer = ask('/unregistered/a', undef);
is_problem $answer, 499, 'idempotency_key_missing', 'a status that is not registered';
like $answer->body, qr/"title":"Idempotency-Key header is missing","status":499/, 'has the title of the problem';
ask('/unregistered/a', 'u', body => 'one');
is_problem ask('/unregistered/a', 'u', body => 'two'), 422, 'idempotency_key_reused', 'an inner level replaces the directives of the outer one';

my $running = $nginx->send_request(path => '/base/a?gate=b', key => 'b');
app()->await_arrival('/base/a');
$answer = ask('/base/a?gate=b', 'b');
is_problem $answer, 425, 'still-running', 'a code with a base';
is $answer->header('Link'), '<https://errors.example/still-running>; rel="describedby"', 'is part of the type';
is $answer->header('Retry-After'), 1, 'and Retry-After stays';
app()->open_gate('b');
$running->response;

$answer = ask('/page/a', undef);
is $answer->body, 'the page of 451', 'error_page applies to the status of the directive';

my $first = ask('/broken/a?abort=mid', 'x');
is_problem $first, 502, 'outcome_unknown', 'the 502 can not be changed';
is_problem ask('/broken/a?abort=mid', 'x'), 424, 'outcome_unknown', 'the response to its retry can be';

$nginx->stop;
done_testing;
