/*
 * test_peer.c - a peer is who the kernel says, and a policy lets in whom it names and nobody else.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <poll.h>
#include <pwd.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "query/peer.h"

enum {
    OTHER = 65534, /* a user that no test runs as, nor is in */
    OTHER_GROUP = 54321,
    PATIENCE_MS = 60000,
};

/* A listening socket with an abstract address, which no file's mode guards. */
static int listen_abstract(struct sockaddr_un *address, socklen_t *length)
{
    *address = (struct sockaddr_un){.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_true(fd >= 0);
    assert_int_equal(bind(fd, (const struct sockaddr *)address, sizeof(address->sun_family)), 0);
    *length = sizeof(*address);
    assert_int_equal(getsockname(fd, (struct sockaddr *)address, length), 0);
    assert_int_equal(listen(fd, 8), 0);
    return fd;
}

/* Connects as another user when `groups` is not NULL, and stays until told to go. */
static int child_connect(const struct sockaddr_un *address, socklen_t length, const gid_t *groups,
                         int go)
{
    char byte;
    if (groups && (setgroups(2, groups) != 0 || setgid(OTHER) != 0 || setuid(OTHER) != 0))
        return 2;
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || connect(fd, (const struct sockaddr *)address, length) != 0)
        return 3;
    return read(go, &byte, 1) == 0 ? 0 : 4;
}

/* What peer_of() says of a child that connected, and its pid. */
static pid_t peer_of_child(const gid_t *groups, struct peer *peer)
{
    struct sockaddr_un address;
    socklen_t length;
    int go[2], status = -1;
    int listener = listen_abstract(&address, &length);
    assert_int_equal(pipe2(go, O_CLOEXEC), 0);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        close(go[1]);
        _exit(child_connect(&address, length, groups, go[0]));
    }
    struct pollfd wait = {.fd = listener, .events = POLLIN};
    assert_int_equal(poll(&wait, 1, PATIENCE_MS), 1);
    int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    assert_true(fd >= 0);
    struct error err;
    assert_int_equal(peer_of(fd, peer, &err), STATUS_OK);
    close(go[1]);
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
    close(go[0]);
    close(fd);
    close(listener);
    return child;
}

static void a_peer_is_the_process_that_connected(void **state)
{
    (void)state;
    struct peer peer;
    pid_t child = peer_of_child(NULL, &peer);
    assert_int_equal(peer.pid, child);
    assert_int_equal(peer.uid, geteuid());
    assert_int_equal(peer.gid, getegid());
    gid_t groups[PEER_GROUPS_MAX];
    int count = getgroups(PEER_GROUPS_MAX, groups);
    assert_true(count >= 0);
    assert_int_equal(peer.group_count, count);
    assert_true(peer_is_admin(&peer));
}

static void a_peer_of_another_user_is_seen_with_its_groups(void **state)
{
    (void)state;
    if (geteuid() != 0)
        skip();
    const gid_t groups[] = {OTHER_GROUP, 7};
    struct peer peer;
    struct peer_policy policy;
    pid_t child = peer_of_child(groups, &peer);
    assert_int_equal(peer.pid, child);
    assert_int_equal(peer.uid, OTHER);
    assert_int_equal(peer.gid, OTHER);
    assert_int_equal(peer.group_count, 2);
    assert_false(peer_is_admin(&peer));
    assert_int_equal(peer_policy_parse("1", &policy, NULL), STATUS_OK);
    assert_false(peer_allowed(&policy, &peer));
    assert_int_equal(peer_policy_parse("1,@54321", &policy, NULL), STATUS_OK);
    assert_true(peer_allowed(&policy, &peer));
}

static void expect_no_peer(int fd, const char *words)
{
    struct peer peer;
    struct error err;
    assert_int_equal(peer_of(fd, &peer, &err), STATUS_INVALID);
    assert_non_null(strstr(err.text, words));
    if (fd >= 0)
        close(fd);
}

static void what_has_no_peer_is_refused(void **state)
{
    (void)state;
    expect_no_peer(-1, "not a Unix socket");
    expect_no_peer(open("/dev/null", O_RDONLY | O_CLOEXEC), "not a Unix socket");
    expect_no_peer(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0), "nobody is connected");
    int internet = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (internet >= 0)
        expect_no_peer(internet, "not a Unix socket");
}

/* ---- policies ---- */

static struct peer_policy parsed(const char *list)
{
    struct peer_policy policy;
    struct error err;
    if (peer_policy_parse(list, &policy, &err) != STATUS_OK)
        fail_msg("%s: %s", list, err.text);
    return policy;
}

static void expect_unparsed(const char *list, enum status status, const char *words)
{
    struct peer_policy policy = {.user_count = 77};
    struct error err;
    assert_int_equal(peer_policy_parse(list, &policy, &err), status);
    if (!strstr(err.text, words))
        fail_msg("\"%s\" lacks \"%s\"", err.text, words);
    assert_int_equal(policy.user_count, 77);
}

static void names_and_numbers_are_parsed(void **state)
{
    (void)state;
    struct peer_policy policy = parsed("1001,root,@2000,@root,4294967294,0");
    assert_int_equal(policy.user_count, 4);
    assert_int_equal(policy.users[0], 1001);
    assert_int_equal(policy.users[1], 0);
    assert_int_equal(policy.users[2], 4294967294u);
    assert_int_equal(policy.users[3], 0);
    assert_int_equal(policy.group_count, 2);
    assert_int_equal(policy.groups[0], 2000);
    assert_int_equal(policy.groups[1], 0);
}

/* Of some systems' users one has a uid that is not its gid. */
static void a_name_gives_a_user_and_after_at_a_group(void **state)
{
    (void)state;
    const struct passwd *user = getpwnam("games");
    const struct group *group = getgrnam("games");
    const uid_t uid = user ? user->pw_uid : 0;
    const gid_t gid = group ? group->gr_gid : 0;
    if (uid == gid) /* or there are no such two */
        skip();
    struct peer_policy policy = parsed("games,@games");
    assert_int_equal(policy.users[0], uid);
    assert_int_equal(policy.groups[0], gid);
}

static void what_names_nobody_is_refused(void **state)
{
    (void)state;
    expect_unparsed("root,no-such-user-here", STATUS_NOT_FOUND, "no-such-user-here: no such user");
    expect_unparsed("@no-such-group-here,root", STATUS_NOT_FOUND,
                    "no-such-group-here: no such group");
    expect_unparsed(" root", STATUS_NOT_FOUND, " root: no such user");
    expect_unparsed("-1", STATUS_NOT_FOUND, "-1: no such user");
    expect_unparsed("", STATUS_INVALID, "empty entry");
    expect_unparsed("root,", STATUS_INVALID, "empty entry");
    expect_unparsed(",root", STATUS_INVALID, "empty entry");
    expect_unparsed("@", STATUS_INVALID, "empty entry");
    expect_unparsed("4294967295", STATUS_INVALID, "not a user or group id");
    expect_unparsed("@18446744073709551616", STATUS_INVALID, "not a user or group id");
    char name[1000];
    memset(name, 'x', sizeof(name));
    name[sizeof(name) - 1] = '\0';
    expect_unparsed(name, STATUS_NOT_FOUND, "xxx");
}

/* "0,1,2,...": `count` entries, each after `mark`. */
static const char *list_of(int count, const char *mark, char list[1024])
{
    size_t used = 0;
    for (int i = 0; i < count; i++)
        used += (size_t)snprintf(list + used, 1024 - used, "%s%s%d", i ? "," : "", mark, i);
    return list;
}

static void a_list_has_a_limit_for_users_and_one_for_groups(void **state)
{
    (void)state;
    char list[1024], both[2100];
    assert_int_equal(parsed(list_of(PEER_POLICY_MAX, "", list)).user_count, PEER_POLICY_MAX);
    expect_unparsed(list_of(PEER_POLICY_MAX + 1, "", list), STATUS_INVALID, "more than 64 users");
    expect_unparsed(list_of(PEER_POLICY_MAX + 1, "@", list), STATUS_INVALID, "more than 64 groups");
    list_of(PEER_POLICY_MAX, "", list);
    snprintf(both, sizeof(both), "%s,", list);
    list_of(PEER_POLICY_MAX, "@", list);
    snprintf(both + strlen(both), sizeof(both) - strlen(both), "%s", list);
    assert_int_equal(parsed(both).group_count, PEER_POLICY_MAX);
}

static struct peer peer_made(uid_t uid, gid_t gid)
{
    return (struct peer){.uid = uid, .gid = gid, .group_count = 2, .groups = {60001, 60002}};
}

static void an_empty_policy_lets_everyone_in(void **state)
{
    (void)state;
    const struct peer_policy policy = {0};
    const struct peer peer = peer_made(OTHER, OTHER);
    assert_true(peer_allowed(&policy, &peer));
}

static void a_policy_lets_in_whom_it_names(void **state)
{
    (void)state;
    const struct peer peer = peer_made(50001, 50002);
    static const char *const in[] = {"50001",  "9,50001",  "@50002",
                                     "@60001", "@60002,9", "9,@60002"};
    /* A user's number is no group's, nor the other way. */
    static const char *const out[] = {"50002", "60001", "@50001", "9,@9", "0,@0", "@60003"};
    for (size_t i = 0; i < ARRAY_LENGTH(in); i++) {
        const struct peer_policy policy = parsed(in[i]);
        assert_true(peer_allowed(&policy, &peer));
    }
    for (size_t i = 0; i < ARRAY_LENGTH(out); i++) {
        const struct peer_policy policy = parsed(out[i]);
        assert_false(peer_allowed(&policy, &peer));
    }
}

static void root_and_our_own_user_are_admins_and_always_let_in(void **state)
{
    (void)state;
    const struct peer_policy policy = parsed("9,@9");
    const struct peer root = peer_made(0, 50002);
    const struct peer ours = peer_made(geteuid(), 50002);
    const struct peer other = peer_made(50001, 0); /* root's group is no right */
    assert_true(peer_is_admin(&root));
    assert_true(peer_allowed(&policy, &root));
    assert_true(peer_is_admin(&ours));
    assert_true(peer_allowed(&policy, &ours));
    assert_false(peer_is_admin(&other));
    assert_false(peer_allowed(&policy, &other));
}

/* As a child with another effective user: 0 when that one and root are admins and its real user is
 * not. */
static int child_admin(void)
{
    if (setresuid(50003, OTHER, 50003) != 0)
        return 2;
    const struct peer ours = peer_made(OTHER, OTHER);
    const struct peer root = peer_made(0, OTHER);
    const struct peer real = peer_made(50003, OTHER);
    return peer_is_admin(&ours) && peer_is_admin(&root) && !peer_is_admin(&real) ? 0 : 3;
}

static void an_admin_is_root_or_the_effective_user(void **state)
{
    (void)state;
    int status = -1;
    if (geteuid() != 0)
        skip();
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0)
        _exit(child_admin());
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_peer_is_the_process_that_connected),
        cmocka_unit_test(a_peer_of_another_user_is_seen_with_its_groups),
        cmocka_unit_test(what_has_no_peer_is_refused),
        cmocka_unit_test(names_and_numbers_are_parsed),
        cmocka_unit_test(a_name_gives_a_user_and_after_at_a_group),
        cmocka_unit_test(what_names_nobody_is_refused),
        cmocka_unit_test(a_list_has_a_limit_for_users_and_one_for_groups),
        cmocka_unit_test(an_empty_policy_lets_everyone_in),
        cmocka_unit_test(a_policy_lets_in_whom_it_names),
        cmocka_unit_test(root_and_our_own_user_are_admins_and_always_let_in),
        cmocka_unit_test(an_admin_is_root_or_the_effective_user),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
