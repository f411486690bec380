// Functions whose mangled names need every rule of Rust's two schemes.
#![allow(dead_code)]
use std::collections::HashMap;

trait Shape {
    fn area(&self) -> f64;
}

struct Square<const N: usize, const B: bool, const C: char>(f64);

impl<const N: usize, const B: bool, const C: char> Shape for Square<N, B, C> {
    #[inline(never)]
    fn area(&self) -> f64 {
        self.0 * self.0 + N as f64
    }
}

struct Signed<const I: i32>;

impl<const I: i32> Signed<I> {
    #[inline(never)]
    fn value(&self) -> i32 {
        I
    }
}

struct Wrap<T>(T);

impl<T: std::fmt::Debug> Wrap<T> {
    #[inline(never)]
    fn show(&self) {
        println!("{:?}", self.0)
    }
}

#[inline(never)]
fn generic<T, F: for<'a> Fn(&'a T) -> &'a str>(t: T, f: F) -> usize {
    f(&t).len()
}

#[inline(never)]
fn name_of<T>(_: T) {
    println!("{}", std::any::type_name::<T>())
}

#[inline(never)]
fn apply<F: Fn()>(f: F) {
    f()
}

mod größe {
    #[inline(never)]
    pub fn straße<T: Default + std::fmt::Debug>() {
        println!("{:?}", T::default())
    }

    pub mod 日本 {
        #[inline(never)]
        pub fn 語() {
            println!("x")
        }
    }
}

extern "C" fn foreign(_: *const u8, _: *mut i8) -> ! {
    std::process::exit(0)
}

unsafe extern "system" fn unsafe_foreign() {}

fn main() {
    println!("{}", Square::<3, true, 'x'>(1.0).area());
    println!("{}", Square::<4, false, '\n'>(2.0).area());
    println!("{}", Square::<18446744073709551615, false, 'é'>(2.0).area());
    println!("{}", Signed::<-42>.value() + Signed::<7>.value());
    let shapes: Vec<Box<dyn Shape + Send>> = vec![
        Box::new(Square::<3, true, ' '>(1.0)),
        Box::new(Square::<3, true, '~'>(1.0)),
        Box::new(Square::<3, true, '\''>(1.0)),
    ];
    println!("{}", shapes.iter().map(|s| s.area()).sum::<f64>());
    Wrap(vec![(1u8, "a")]).show();
    Wrap::<HashMap<String, [i128; 2]>>(HashMap::new()).show();
    generic(String::from("a"), |s| s.as_str());
    generic(3, |_| "three");
    apply(|| apply(|| println!("nested")));
    name_of::<extern "C" fn(*const u8, *mut i8) -> !>(foreign);
    name_of::<unsafe extern "system" fn()>(unsafe_foreign);
    name_of::<&dyn Iterator<Item = (u8,)>>(&(0..1).map(|_| (1u8,)));
    name_of::<&dyn std::any::Any>(&1u8);
    name_of::<Box<dyn for<'a> Fn(&'a str, &dyn Fn(&'a u8)) + 'static>>(Box::new(|_, _| ()));
    größe::straße::<Option<char>>();
    größe::日本::語();
}
