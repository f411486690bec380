// counted N: calls hot() N times from four threads and prints how often it ran.
use std::sync::atomic::{AtomicU64, Ordering};

static CALLS: AtomicU64 = AtomicU64::new(0);

#[no_mangle]
#[inline(never)]
pub extern "C" fn hot(a: u64) -> u64 {
    CALLS.fetch_add(1, Ordering::SeqCst);
    a.rotate_left(3) ^ 5
}

fn main() {
    let n: u64 = std::env::args().nth(1).and_then(|word| word.parse().ok()).unwrap_or(100);
    let threads: Vec<_> = (0..4)
        .map(|k| {
            std::thread::spawn(move || {
                let mut a = k;
                for _ in 0..n / 4 {
                    a = hot(a);
                }
                // A panic unwinds through the functions that were called.
                std::panic::set_hook(Box::new(|_| {}));
                assert!(std::panic::catch_unwind(|| panic!("as planned")).is_err());
                std::hint::black_box(a)
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
    println!("hot {}", CALLS.load(Ordering::SeqCst));
}
