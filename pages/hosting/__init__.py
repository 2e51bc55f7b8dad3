"""Who a visitor is, where the app serves several."""
