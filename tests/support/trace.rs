//! Runs a command under `ptrace`, counts its system calls that change files, and at one of them kills it or lets the call fail:
//! every state that a fault can leave on a disk is met, without a hook in what is tested.
//!
//! For Linux on x86-64; elsewhere, and where a sandbox forbids it, [`run`] gives nothing.

use std::process::Command;

/// What happens at a call.
#[derive(Clone, Copy, Debug)]
pub enum Fault {
    /// The process is killed before the call.
    Kill,
    /// The call fails with this error number.
    Error(i32),
}

/// How a traced process ended.
#[derive(Debug)]
pub struct End {
    /// Exit code; nothing where it was killed.
    pub code: Option<i32>,
    /// The call at which the fault happened; nothing where the process made fewer.
    pub call: Option<&'static str>,
}

/// Runs `command` with a fault at its `at`-th call, from 1 on, that changes a file. Nothing where processes cannot be traced.
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
pub fn run(command: &mut Command, at: usize, fault: Fault) -> Option<End> {
    imp::run(command, at, fault)
}

/// As above, where it cannot be done.
#[cfg(not(all(target_os = "linux", target_arch = "x86_64")))]
pub fn run(_: &mut Command, _: usize, _: Fault) -> Option<End> {
    None
}

#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod imp {
    use super::{End, Fault};
    use libc::{c_int, c_long, c_void, pid_t};
    use std::io;
    use std::mem::MaybeUninit;
    use std::os::unix::process::CommandExt as _;
    use std::process::Command;
    use std::ptr::{null_mut, without_provenance_mut};

    pub fn run(command: &mut Command, at: usize, fault: Fault) -> Option<End> {
        // SAFETY: between fork and exec there is one system call and no allocation.
        unsafe {
            command.pre_exec(|| {
                match libc::ptrace(
                    libc::PTRACE_TRACEME,
                    0,
                    null_mut::<c_void>(),
                    null_mut::<c_void>(),
                ) {
                    -1 => Err(io::Error::last_os_error()),
                    _ => Ok(()),
                }
            });
        }
        let child = command.spawn().ok()?;
        let pid = pid_t::try_from(child.id()).unwrap();
        let mut tracer = Tracer {
            pid,
            at,
            fault,
            calls: 0,
            call: None,
            failing: None,
        };
        wait(pid); // stopped at exec
        let options =
            libc::PTRACE_O_TRACESYSGOOD | libc::PTRACE_O_EXITKILL | libc::PTRACE_O_TRACECLONE;
        ask(libc::PTRACE_SETOPTIONS, pid, options as usize);
        ask(libc::PTRACE_SYSCALL, pid, 0);
        Some(tracer.follow())
    }

    struct Tracer {
        pid: pid_t,
        at: usize,
        fault: Fault,
        calls: usize,
        call: Option<&'static str>,
        /// The thread whose call is on its way to fail.
        failing: Option<pid_t>,
    }

    impl Tracer {
        fn follow(&mut self) -> End {
            loop {
                let (thread, status) = wait(-1);
                if libc::WIFSTOPPED(status) {
                    let signal = self.stopped(thread, status);
                    ask(libc::PTRACE_SYSCALL, thread, signal as usize);
                } else if thread == self.pid {
                    let code = libc::WIFEXITED(status).then(|| libc::WEXITSTATUS(status));
                    return End {
                        code,
                        call: self.call,
                    };
                }
            }
        }

        /// Looks at a thread that stands still; the signal that it goes on with.
        fn stopped(&mut self, thread: pid_t, status: c_int) -> c_int {
            match libc::WSTOPSIG(status) {
                signal if signal == libc::SIGTRAP | 0x80 => {
                    self.call(thread);
                    0
                }
                libc::SIGTRAP | libc::SIGSTOP => 0, // of tracing itself
                signal => signal,
            }
        }

        fn call(&mut self, thread: pid_t) {
            let info = info(thread);
            if info.op == libc::PTRACE_SYSCALL_INFO_EXIT && self.failing == Some(thread) {
                let Fault::Error(number) = self.fault else {
                    return;
                };
                self.failing = None;
                change(thread, |registers| {
                    registers.rax = i64::from(-number) as u64
                });
            }
            if info.op != libc::PTRACE_SYSCALL_INFO_ENTRY {
                return;
            }
            // SAFETY: `op` says which part of the union is filled in.
            let entry = unsafe { info.u.entry };
            let Some(name) = changes_a_file(
                self.pid,
                c_long::try_from(entry.nr).unwrap_or(-1),
                &entry.args,
            ) else {
                return;
            };
            self.calls += 1;
            if self.calls != self.at {
                return;
            }
            self.call = Some(name);
            match self.fault {
                // SAFETY: the process is this one's child and not yet waited for.
                Fault::Kill => drop(unsafe { libc::kill(self.pid, libc::SIGKILL) }),
                Fault::Error(_) => {
                    self.failing = Some(thread);
                    change(thread, |registers| registers.orig_rax = u64::MAX); // no call of that number
                }
            }
        }
    }

    /// The name of a call that changes a file or a folder.
    fn changes_a_file(pid: pid_t, number: c_long, args: &[u64; 6]) -> Option<&'static str> {
        let creates = |flags: u64| flags as c_int & (libc::O_CREAT | libc::O_TRUNC) != 0;
        match number {
            libc::SYS_openat if creates(args[2]) => Some("open"),
            libc::SYS_open if creates(args[1]) => Some("open"),
            libc::SYS_write | libc::SYS_writev | libc::SYS_pwrite64 => {
                is_a_file(pid, args[0]).then_some("write")
            }
            libc::SYS_fsync | libc::SYS_fdatasync => Some("fsync"),
            libc::SYS_ftruncate | libc::SYS_fallocate => Some("truncate"),
            libc::SYS_rename | libc::SYS_renameat | libc::SYS_renameat2 => Some("rename"),
            libc::SYS_unlink | libc::SYS_unlinkat => Some("unlink"),
            libc::SYS_mkdir | libc::SYS_mkdirat => Some("mkdir"),
            libc::SYS_link | libc::SYS_linkat => Some("link"),
            _ => None,
        }
    }

    /// Whether a descriptor is a file's and none of the standard streams, a pipe or an event.
    fn is_a_file(pid: pid_t, descriptor: u64) -> bool {
        let link = std::fs::read_link(format!("/proc/{pid}/fd/{descriptor}"));
        descriptor > 2 && link.is_ok_and(|path| path.is_absolute())
    }

    /// Waits for a child of this thread, or one of its threads: other tests have children of their own.
    fn wait(pid: pid_t) -> (pid_t, c_int) {
        let mut status = 0;
        // SAFETY: the status is written to.
        let thread = unsafe { libc::waitpid(pid, &mut status, libc::__WALL | libc::__WNOTHREAD) };
        assert!(thread > 0, "waitpid: {}", io::Error::last_os_error());
        (thread, status)
    }

    /// A request without result. It fails where the thread was killed meanwhile, which the next wait tells.
    fn ask(request: libc::c_uint, thread: pid_t, data: usize) {
        // SAFETY: these requests take a number.
        unsafe {
            libc::ptrace(
                request,
                thread,
                null_mut::<c_void>(),
                without_provenance_mut::<c_void>(data),
            )
        };
    }

    fn info(thread: pid_t) -> libc::ptrace_syscall_info {
        let mut info = MaybeUninit::<libc::ptrace_syscall_info>::zeroed();
        // SAFETY: the size is that of what is written to; zeros are valid where nothing is.
        unsafe {
            libc::ptrace(
                libc::PTRACE_GET_SYSCALL_INFO,
                thread,
                size_of_val(&info),
                info.as_mut_ptr(),
            );
            info.assume_init()
        }
    }

    fn change(thread: pid_t, change: impl FnOnce(&mut libc::user_regs_struct)) {
        let mut registers = MaybeUninit::<libc::user_regs_struct>::zeroed();
        // SAFETY: the registers are written to and read; zeros are valid.
        unsafe {
            if libc::ptrace(
                libc::PTRACE_GETREGS,
                thread,
                null_mut::<c_void>(),
                registers.as_mut_ptr(),
            ) == 0
            {
                let mut registers = registers.assume_init();
                change(&mut registers);
                libc::ptrace(
                    libc::PTRACE_SETREGS,
                    thread,
                    null_mut::<c_void>(),
                    &mut registers,
                );
            }
        }
    }
}
