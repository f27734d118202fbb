/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * kill-at COUNT [--torn] COMMAND...: run COMMAND and kill it with SIGKILL at
 * the COUNTth system call that changes, or makes durable, something in the file
 * system: before it happens.  With --torn, if it's a write of more than a page,
 * after half of it happened, as when a signal cuts off a buffered write.  COUNT
 * 0 kills nothing.
 *
 * All threads of COMMAND are counted together; what others are doing at that
 * moment is the schedule's.  It prints on descriptor 3, if that is open, the
 * number of calls seen and the name of the last.  Exits with COMMAND's status,
 * or 137 when it was killed.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

#define PAGE 4096u

#if !defined(__x86_64__)
int main(void)
{
    puts("kill-at knows only the system calls of x86-64");
    return 77;
}
#else

static const struct {
    unsigned number;
    const char *name;
} calls[] = {
/* clang-format off */
#define CALL(name) {SYS_##name, #name}
    CALL(write), CALL(pwrite64), CALL(writev), CALL(pwritev), CALL(pwritev2),
    CALL(io_submit), CALL(copy_file_range), CALL(sendfile), CALL(ftruncate),
    CALL(truncate), CALL(fallocate), CALL(rename), CALL(renameat),
    CALL(renameat2), CALL(link), CALL(linkat), CALL(unlink), CALL(unlinkat),
    CALL(mkdir), CALL(mkdirat), CALL(rmdir), CALL(symlink), CALL(symlinkat),
    CALL(chmod), CALL(fchmod), CALL(fsync), CALL(fdatasync), CALL(syncfs),
    CALL(sync_file_range), CALL(flock), CALL(open), CALL(openat), CALL(creat),
    CALL(ioctl), CALL(fsetxattr),
/* clang-format on */
#undef CALL
};
#define CALLS (sizeof(calls) / sizeof(calls[0]))

static void must(int good, const char *what)
{
    if (!good) {
        fprintf(stderr, "kill-at: %s: %s\n", what, strerror(errno));
        exit(2);
    }
}

/* --- The command ---------------------------------------------------------- */

/* Stop for the tracer at these calls and at no others. */
static void install_filter(void)
{
    struct sock_filter code[CALLS + 3];
    struct sock_fprog program = {CALLS + 3, code};

    code[0] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS,
                                           offsetof(struct seccomp_data, nr));
    for (unsigned i = 0; i < CALLS; i++) {
        code[i + 1] = (struct sock_filter)BPF_JUMP(
            BPF_JMP | BPF_JEQ | BPF_K, calls[i].number,
            (unsigned char)(CALLS - i), 0);
    }
    code[CALLS + 1] =
        (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
    code[CALLS + 2] =
        (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRACE);
    must(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0, "no_new_privs");
    must(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0, "seccomp");
}

static void be_command(char **argv)
{
    must(ptrace(PTRACE_TRACEME, 0, NULL, NULL) == 0, "ptrace");
    raise(SIGSTOP); /* until the tracer has set its options */
    install_filter();
    execvp(argv[0], argv);
    must(0, argv[0]);
}

/* --- The tracer -------------------------------------------------------------
 */

static const char *call_name(unsigned long long number)
{
    for (unsigned i = 0; i < CALLS; i++) {
        if (calls[i].number == number) {
            return calls[i].name;
        }
    }
    return "?";
}

/* Opening counts when it may make or empty a file; of writes, those to where
 * the command talks don't. */
static int changes_files(const struct user_regs_struct *regs)
{
    switch (regs->orig_rax) {
    case SYS_open:
        return (regs->rsi & (O_CREAT | O_TRUNC)) != 0;
    case SYS_openat:
        return (regs->rdx & (O_CREAT | O_TRUNC)) != 0;
    case SYS_ioctl: /* FICLONE, FICLONERANGE */
        return (regs->rsi & 0xffff) == 0x9409 || (regs->rsi & 0xffff) == 0x940d;
    case SYS_write:
    case SYS_writev:
        return regs->rdi > 2;
    }
    return 1;
}

/* Make a write half as long, down to a whole number of pages.  False if it is
 * no write, or too short to be torn. */
static int halve(pid_t pid, struct user_regs_struct *regs)
{
    struct iovec iov;
    struct iovec local = {&iov, sizeof(iov)};
    struct iovec remote = {(void *)regs->rsi, sizeof(iov)};

    switch (regs->orig_rax) {
    case SYS_write:
    case SYS_pwrite64:
        if (regs->rdx <= PAGE) {
            return 0;
        }
        regs->rdx = (regs->rdx / 2 + PAGE - 1) / PAGE * PAGE;
        return ptrace(PTRACE_SETREGS, pid, NULL, regs) == 0;
    case SYS_pwritev:
    case SYS_pwritev2:
    case SYS_writev:
        if (regs->rdx != 1 ||
            process_vm_readv(pid, &local, 1, &remote, 1, 0) != sizeof(iov) ||
            iov.iov_len <= PAGE) {
            return 0;
        }
        iov.iov_len = (iov.iov_len / 2 + PAGE - 1) / PAGE * PAGE;
        return process_vm_writev(pid, &local, 1, &remote, 1, 0) == sizeof(iov);
    }
    return 0;
}

struct trace {
    pid_t pid; /* of the command's first thread */
    unsigned long count, limit;
    const char *last;
    int torn;
    pid_t dying; /* thread whose half write is under way, or 0 */
};

/* A stop of the thread `pid`; what to go on with. */
static void handle_stop(struct trace *trace, pid_t pid, int status)
{
    long how = PTRACE_CONT;
    int signal = WSTOPSIG(status), event = status >> 16;
    struct user_regs_struct regs;

    if (event == PTRACE_EVENT_SECCOMP &&
        ptrace(PTRACE_GETREGS, pid, NULL, &regs) == 0 && changes_files(&regs)) {
        trace->last = call_name(regs.orig_rax);
        if (++trace->count == trace->limit) {
            if (trace->torn && halve(pid, &regs)) {
                trace->dying = pid;
                how = PTRACE_SYSCALL;
            } else {
                kill(trace->pid, SIGKILL);
            }
        }
    } else if (signal == (SIGTRAP | 0x80) && pid == trace->dying) {
        kill(trace->pid, SIGKILL);
    }
    if (event || signal == (SIGTRAP | 0x80) || signal == SIGSTOP ||
        signal == SIGTRAP) {
        signal = 0;
    }
    ptrace((enum __ptrace_request)how, pid, NULL, (long)signal);
}

static int follow(struct trace *trace)
{
    const long options = PTRACE_O_TRACESECCOMP | PTRACE_O_TRACECLONE |
                         PTRACE_O_TRACEFORK | PTRACE_O_TRACEVFORK |
                         PTRACE_O_EXITKILL | PTRACE_O_TRACESYSGOOD;
    int status, result = 2;
    pid_t pid;

    must(waitpid(trace->pid, &status, 0) == trace->pid && WIFSTOPPED(status),
         "the command doesn't start");
    must(ptrace(PTRACE_SETOPTIONS, trace->pid, NULL, options) == 0, "options");
    ptrace(PTRACE_CONT, trace->pid, NULL, 0L);
    while ((pid = waitpid(-1, &status, __WALL)) > 0 || errno == EINTR) {
        if (pid > 0 && WIFSTOPPED(status)) {
            handle_stop(trace, pid, status);
        } else if (pid == trace->pid) {
            result = WIFEXITED(status) ? WEXITSTATUS(status)
                                       : 128 + WTERMSIG(status);
        }
    }
    return result;
}

int main(int argc, char **argv)
{
    struct trace trace = {.last = "none"};
    char **command = argv + 2;
    int result;

    if (argc > 2 && !strcmp(argv[2], "--torn")) {
        trace.torn = 1;
        command++;
    }
    if (argc < 3 || !*command) {
        fprintf(stderr, "kill-at COUNT [--torn] COMMAND...\n");
        return 2;
    }
    trace.limit = strtoul(argv[1], NULL, 10);
    trace.pid = fork();
    must(trace.pid >= 0, "fork");
    if (trace.pid == 0) {
        fcntl(3, F_SETFD, FD_CLOEXEC);
        be_command(command);
    }
    result = follow(&trace);
    dprintf(3, "%lu %s\n", trace.count, trace.last);
    return result;
}
#endif
