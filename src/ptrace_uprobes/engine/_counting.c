/* The hit path in C: what `counting.serve_in_python` does, line for line. See there. And it waits
 * awake for a moment (docs/decisions/0010-awake-for-a-moment.md).
 *
 * It works on the same Python objects, so that either can be used at any time; what it saves is
 * the interpreter's share of a hit and ctypes' share of each ptrace call. The interpreter lock is
 * given up while it waits, as in os.waitid.
 *
 * HOT PATH. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <errno.h>
#include <signal.h>
#include <stddef.h>
#include <sys/ptrace.h>
#include <sys/types.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum {
    INTERFACE = 3, /* counting.py uses this module only if it has the number that it knows */
    FAIR_BURST = 16,
    LOOK = __WALL | __WNOTHREAD | WEXITED | WNOWAIT, /* see state.py */
    TRAP_STOP = SIGTRAP << 8 | 0x7f,
    RIP = offsetof(struct user, regs.rip),
    PATIENCE_NS = 40000,
    MOST_SKIPPED = 4096,
};

static PyObject *name_burst, *name_certain, *name_frozen, *name_hits, *name_max_hits,
    *name_placed, *name_reentries, *name_resume_at, *name_sole, *name_stepping,
    *name_syscall_mode, *name_threads, *one;

/* 1, 0, or -1 with an exception. */
static int is_true(PyObject *object, PyObject *name)
{
    PyObject *value = PyObject_GetAttr(object, name);
    if (value == NULL)
        return -1;
    int answer = PyObject_IsTrue(value);
    Py_DECREF(value);
    return answer;
}

/* Stops served since others than the first that is ready got a turn. Engines of one process share it,
 * which makes them a little fairer still. */
static int burst;

static long online;
/* CPUs. */

/* What waitpid(2) would say; see `state.status_of`. */
static int status_of(const siginfo_t *seen)
{
    switch (seen->si_code) {
    case CLD_EXITED:
        return (seen->si_status & 0xff) << 8;
    case CLD_KILLED:
        return seen->si_status;
    case CLD_DUMPED:
        return seen->si_status | 0x80;
    default:
        return seen->si_status << 8 | 0x7f;
    }
}

static long nanoseconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000000L + now.tv_nsec;
}

/* As waitid(2), but awake for the first moments: where the tracee has a CPU of its own the next hit
 * is nearer than a sleeper's wake-up. Where that was in vain (they share a CPU, or hits are rare) it
 * is not tried at the next 1, 2, 4 ... waits. */
static int wait_for_any(siginfo_t *seen, int may_stay_awake)
{
    static _Thread_local unsigned to_skip, skipped_last;
    if (may_stay_awake && to_skip)
        to_skip--;
    else if (may_stay_awake) {
        long start = nanoseconds(), now = start;
        do {
            seen->si_pid = 0;
            if (waitid(P_ALL, 0, seen, LOOK | WNOHANG))
                return -1;
            if (seen->si_pid) {
                if (now != start) /* else it was there, and says nothing of the next one */
                    skipped_last = 0;
                return 0;
            }
            now = nanoseconds();
        } while (now - start < PATIENCE_NS);
        skipped_last = skipped_last ? skipped_last * 2 : 1;
        if (skipped_last > MOST_SKIPPED)
            skipped_last = MOST_SKIPPED;
        to_skip = skipped_last;
    }
    return waitid(P_ALL, 0, seen, LOOK);
}

/* The next status, not taken; -1 with an exception. */
static int look(pid_t *tid, int *status, int may_stay_awake)
{
    siginfo_t seen;
    for (;;) {
        int failed;
        Py_BEGIN_ALLOW_THREADS
        failed = wait_for_any(&seen, may_stay_awake);
        Py_END_ALLOW_THREADS
        if (!failed)
            break;
        if (errno != EINTR) {
            PyErr_SetFromErrno(PyExc_OSError);
            return -1;
        }
        if (PyErr_CheckSignals() < 0)
            return -1;
    }
    *tid = seen.si_pid;
    *status = status_of(&seen);
    return 0;
}

/* Whether the thread stopped for an int3. */
static int is_int3(pid_t tid)
{
    siginfo_t info;
    return ptrace(PTRACE_GETSIGINFO, tid, 0, &info) != -1 && info.si_code == SI_KERNEL;
}

/* The site that a thread has hit, a new reference; NULL without an exception if it has hit none,
 * or one where more than a look at RIP is needed. */
static PyObject *site_hit(PyObject *thread, pid_t tid)
{
    int busy = is_true(thread, name_reentries);
    if (busy == 0) {
        PyObject *step = PyObject_GetAttr(thread, name_stepping);
        if (step == NULL)
            return NULL;
        busy = step != Py_None;
        Py_DECREF(step);
    }
    if (busy == 0)
        busy = is_true(thread, name_syscall_mode);
    if (busy != 0)
        return NULL;
    errno = 0;
    long rip = ptrace(PTRACE_PEEKUSER, tid, (void *)RIP, 0);
    if (rip == -1 && errno)
        return NULL; /* the thread is gone: waitpid will tell how it ended */
    PyObject *sites = PyObject_GetAttr(thread, name_placed);
    PyObject *key = PyLong_FromLong(rip);
    PyObject *placed = NULL;
    if (sites != NULL && key != NULL) {
        placed = PyDict_GetItemWithError(sites, key);
        Py_XINCREF(placed);
    }
    Py_XDECREF(sites);
    Py_XDECREF(key);
    if (placed == NULL)
        return NULL;
    int certain = is_true(placed, name_certain);
    if (certain == 0)
        certain = is_int3(tid);
    if (certain == 1)
        return placed;
    Py_DECREF(placed);
    return NULL;
}

/* Count the hit and let the thread go on. 1 if that was all, 0 if more is wanted, or -1. */
static int count(PyObject *placed, pid_t tid)
{
    PyObject *sole = PyObject_GetAttr(placed, name_sole);
    if (sole == NULL || sole == Py_None) {
        Py_XDECREF(sole);
        return sole == NULL ? -1 : 0;
    }
    int done = -1;
    unsigned long resume_at = -1UL;
    PyObject *address = PyObject_GetAttr(placed, name_resume_at);
    PyObject *hits = PyObject_GetAttr(sole, name_hits);
    PyObject *more = hits == NULL ? NULL : PyNumber_Add(hits, one);
    if (address != NULL)
        resume_at = PyLong_AsUnsignedLong(address);
    if (more != NULL && !PyErr_Occurred() && PyObject_SetAttr(sole, name_hits, more) == 0) {
        /* Failures: the thread was killed, and waitpid tells how it ended. */
        ptrace(PTRACE_POKEUSER, tid, (void *)RIP, resume_at);
        ptrace(PTRACE_CONT, tid, 0, 0);
        done = 1;
    }
    Py_XDECREF(more);
    Py_XDECREF(hits);
    Py_XDECREF(address);
    Py_DECREF(sole);
    return done;
}

static PyObject *go_on(PyObject *module, PyObject *const *arguments, Py_ssize_t count)
{
    (void)module;
    if (count != 2) {
        PyErr_SetString(PyExc_TypeError, "go_on(tid, address)");
        return NULL;
    }
    long tid = PyLong_AsLong(arguments[0]);
    unsigned long address = PyLong_AsUnsignedLong(arguments[1]);
    if (PyErr_Occurred())
        return NULL;
    if (ptrace(PTRACE_POKEUSER, (pid_t)tid, (void *)RIP, address) == -1)
        Py_RETURN_FALSE;
    ptrace(PTRACE_CONT, (pid_t)tid, 0, 0);
    Py_RETURN_TRUE;
}

/* After a burst the caller is told, and sees to the others. */
static int end_burst(PyObject *state)
{
    PyObject *number = PyLong_FromLong(burst);
    burst = 0;
    if (number == NULL)
        return -1;
    int failed = PyObject_SetAttr(state, name_burst, number);
    Py_DECREF(number);
    return failed;
}

static PyObject *serve(PyObject *module, PyObject *state)
{
    (void)module;
    PyObject *answer = NULL;
    PyObject *threads = PyObject_GetAttr(state, name_threads);
    while (threads != NULL) {
        pid_t tid;
        int status;
        /* Nobody else may want the CPU that we would keep. */
        int to_spare = PyDict_GET_SIZE(threads) < online;
        if (look(&tid, &status, to_spare) < 0)
            break;
        int over = ++burst >= FAIR_BURST;
        if (over && end_burst(state) < 0)
            break;
        PyObject *thread = NULL;
        PyObject *placed = NULL;
        if (status == TRAP_STOP) {
            int held = is_true(state, name_frozen);
            if (held == 0)
                held = is_true(state, name_max_hits);
            PyObject *key = held == 0 ? PyLong_FromLong(tid) : NULL;
            if (key != NULL) {
                thread = PyDict_GetItemWithError(threads, key);
                Py_DECREF(key);
            }
            if (thread != NULL)
                placed = site_hit(thread, tid);
        }
        if (PyErr_Occurred())
            break;
        if (placed != NULL) {
            int counted = count(placed, tid);
            if (counted == 0)
                answer = Py_BuildValue("iiOO", tid, status, thread, placed);
            else if (counted == 1 && over)
                answer = Py_BuildValue("iiOO", 0, 0, Py_None, Py_None);
            Py_DECREF(placed);
            if (counted == 1 && !over)
                continue;
            break;
        }
        answer = Py_BuildValue("iiOO", tid, status, Py_None, Py_None);
        break;
    }
    Py_XDECREF(threads);
    return answer;
}

static PyMethodDef methods[] = {
    {"go_on", (PyCFunction)(void (*)(void))go_on, METH_FASTCALL, "As `go_on_in_python`."},
    {"serve", serve, METH_O, "As `counting.serve_in_python`."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "_counting",
    .m_doc = "The hit path in C.",
    .m_size = -1,
    .m_methods = methods,
};

PyMODINIT_FUNC PyInit__counting(void)
{
    online = sysconf(_SC_NPROCESSORS_ONLN);
    static const struct {
        PyObject **at;
        const char *text;
    } names[] = {
        {&name_burst, "burst"},
        {&name_certain, "certain"},
        {&name_frozen, "frozen"},
        {&name_hits, "hits"},
        {&name_max_hits, "max_hits"},
        {&name_placed, "placed"},
        {&name_reentries, "reentries"},
        {&name_resume_at, "resume_at"},
        {&name_sole, "sole"},
        {&name_stepping, "stepping"},
        {&name_syscall_mode, "syscall_mode"},
        {&name_threads, "threads"},
    };
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        *names[i].at = PyUnicode_InternFromString(names[i].text);
        if (*names[i].at == NULL)
            return NULL;
    }
    one = PyLong_FromLong(1);
    PyObject *module = one == NULL ? NULL : PyModule_Create(&definition);
    if (module != NULL && PyModule_AddIntConstant(module, "INTERFACE", INTERFACE) < 0) {
        Py_DECREF(module);
        return NULL;
    }
    return module;
}
