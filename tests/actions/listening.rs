//! Where a farm is reached.

use std::net::TcpStream;

use tests::action::Action;
use tests::farm::Setup;
use tests::user::As;

#[test]
fn an_address_without_a_host_is_every_address_of_this_one() {
    let farm = Setup::new(As::possible()[0]).listen(":0").start();
    let port = farm.endpoint().strip_prefix("grpc://localhost:");
    let port: u16 = port.expect("a port here").parse().expect("a number");
    for address in ["127.0.0.1", "127.9.9.9"] {
        TcpStream::connect((address, port)).expect("somebody listens");
    }
    let _ = farm.client().run(&Action::shell("true")).success();
    farm.stop();
}
