DefinitionBlock ("", "DSDT", 2, "NUMAVI", "NUMAVSOR", 0x00000001)
{
    Scope (_SB)
    {
        Device (C000)
        {
            Name (_HID, "ACPI0007" /* Processor Device */)  // _HID: Hardware ID
            Name (_UID, Zero)  // _UID: Unique ID
            Method (_PXM, 0, NotSerialized)  // _PXM: Device Proximity
            {
                Return (Zero)
            }
        }

        Device (C001)
        {
            Name (_HID, "ACPI0007" /* Processor Device */)  // _HID: Hardware ID
            Name (_UID, One)  // _UID: Unique ID
            Method (_PXM, 0, NotSerialized)  // _PXM: Device Proximity
            {
                Return (Zero)
            }
        }

        Device (C002)
        {
            Name (_HID, "ACPI0007" /* Processor Device */)  // _HID: Hardware ID
            Name (_UID, 0x02)  // _UID: Unique ID
            Method (_PXM, 0, NotSerialized)  // _PXM: Device Proximity
            {
                Return (One)
            }
        }

        Device (C003)
        {
            Name (_HID, "ACPI0007" /* Processor Device */)  // _HID: Hardware ID
            Name (_UID, 0x03)  // _UID: Unique ID
            Method (_PXM, 0, NotSerialized)  // _PXM: Device Proximity
            {
                Return (One)
            }
        }

        Device (C004)
        {
            Name (_HID, "ACPI0007" /* Processor Device */)  // _HID: Hardware ID
            Name (_UID, 0x04)  // _UID: Unique ID
            Method (_PXM, 0, NotSerialized)  // _PXM: Device Proximity
            {
                Return (0x02)
            }
        }

        Device (C005)
        {
            Name (_HID, "ACPI0007" /* Processor Device */)  // _HID: Hardware ID
            Name (_UID, 0x05)  // _UID: Unique ID
            Method (_PXM, 0, NotSerialized)  // _PXM: Device Proximity
            {
                Return (0x02)
            }
        }

        Device (C006)
        {
            Name (_HID, "ACPI0007" /* Processor Device */)  // _HID: Hardware ID
            Name (_UID, 0x06)  // _UID: Unique ID
            Method (_PXM, 0, NotSerialized)  // _PXM: Device Proximity
            {
                Return (0x03)
            }
        }

        Device (C007)
        {
            Name (_HID, "ACPI0007" /* Processor Device */)  // _HID: Hardware ID
            Name (_UID, 0x07)  // _UID: Unique ID
            Method (_PXM, 0, NotSerialized)  // _PXM: Device Proximity
            {
                Return (0x03)
            }
        }

        Device (C008)
        {
            Name (_HID, "ACPI0007" /* Processor Device */)  // _HID: Hardware ID
            Name (_UID, 0x08)  // _UID: Unique ID
            Method (_PXM, 0, NotSerialized)  // _PXM: Device Proximity
            {
                Return (0x04)
            }
        }

        Device (C009)
        {
            Name (_HID, "ACPI0007" /* Processor Device */)  // _HID: Hardware ID
            Name (_UID, 0x09)  // _UID: Unique ID
            Method (_PXM, 0, NotSerialized)  // _PXM: Device Proximity
            {
                Return (0x04)
            }
        }

        Device (C00A)
        {
            Name (_HID, "ACPI0007" /* Processor Device */)  // _HID: Hardware ID
            Name (_UID, 0x0A)  // _UID: Unique ID
            Method (_PXM, 0, NotSerialized)  // _PXM: Device Proximity
            {
                Return (0x05)
            }
        }

        Device (C00B)
        {
            Name (_HID, "ACPI0007" /* Processor Device */)  // _HID: Hardware ID
            Name (_UID, 0x0B)  // _UID: Unique ID
            Method (_PXM, 0, NotSerialized)  // _PXM: Device Proximity
            {
                Return (0x05)
            }
        }

        Device (C00C)
        {
            Name (_HID, "ACPI0007" /* Processor Device */)  // _HID: Hardware ID
            Name (_UID, 0x0C)  // _UID: Unique ID
            Method (_PXM, 0, NotSerialized)  // _PXM: Device Proximity
            {
                Return (0x06)
            }
        }

        Device (C00D)
        {
            Name (_HID, "ACPI0007" /* Processor Device */)  // _HID: Hardware ID
            Name (_UID, 0x0D)  // _UID: Unique ID
            Method (_PXM, 0, NotSerialized)  // _PXM: Device Proximity
            {
                Return (0x06)
            }
        }

        Device (C00E)
        {
            Name (_HID, "ACPI0007" /* Processor Device */)  // _HID: Hardware ID
            Name (_UID, 0x0E)  // _UID: Unique ID
            Method (_PXM, 0, NotSerialized)  // _PXM: Device Proximity
            {
                Return (0x07)
            }
        }

        Device (C00F)
        {
            Name (_HID, "ACPI0007" /* Processor Device */)  // _HID: Hardware ID
            Name (_UID, 0x0F)  // _UID: Unique ID
            Method (_PXM, 0, NotSerialized)  // _PXM: Device Proximity
            {
                Return (0x07)
            }
        }

        Device (C010)
        {
            Name (_HID, "ACPI0007" /* Processor Device */)  // _HID: Hardware ID
            Name (_UID, 0x10)  // _UID: Unique ID
            Method (_PXM, 0, NotSerialized)  // _PXM: Device Proximity
            {
                Return (0x08)
            }
        }

        Device (C011)
        {
            Name (_HID, "ACPI0007" /* Processor Device */)  // _HID: Hardware ID
            Name (_UID, 0x11)  // _UID: Unique ID
            Method (_PXM, 0, NotSerialized)  // _PXM: Device Proximity
            {
                Return (0x08)
            }
        }

        Device (C012)
        {
            Name (_HID, "ACPI0007" /* Processor Device */)  // _HID: Hardware ID
            Name (_UID, 0x12)  // _UID: Unique ID
            Method (_PXM, 0, NotSerialized)  // _PXM: Device Proximity
            {
                Return (0x09)
            }
        }

        Device (C013)
        {
            Name (_HID, "ACPI0007" /* Processor Device */)  // _HID: Hardware ID
            Name (_UID, 0x13)  // _UID: Unique ID
            Method (_PXM, 0, NotSerialized)  // _PXM: Device Proximity
            {
                Return (0x09)
            }
        }

        Device (C014)
        {
            Name (_HID, "ACPI0007" /* Processor Device */)  // _HID: Hardware ID
            Name (_UID, 0x14)  // _UID: Unique ID
            Method (_PXM, 0, NotSerialized)  // _PXM: Device Proximity
            {
                Return (0x0A)
            }
        }

        Device (C015)
        {
            Name (_HID, "ACPI0007" /* Processor Device */)  // _HID: Hardware ID
            Name (_UID, 0x15)  // _UID: Unique ID
            Method (_PXM, 0, NotSerialized)  // _PXM: Device Proximity
            {
                Return (0x0A)
            }
        }

        Device (C016)
        {
            Name (_HID, "ACPI0007" /* Processor Device */)  // _HID: Hardware ID
            Name (_UID, 0x16)  // _UID: Unique ID
            Method (_PXM, 0, NotSerialized)  // _PXM: Device Proximity
            {
                Return (0x0B)
            }
        }

        Device (C017)
        {
            Name (_HID, "ACPI0007" /* Processor Device */)  // _HID: Hardware ID
            Name (_UID, 0x17)  // _UID: Unique ID
            Method (_PXM, 0, NotSerialized)  // _PXM: Device Proximity
            {
                Return (0x0B)
            }
        }

        Device (C018)
        {
            Name (_HID, "ACPI0007" /* Processor Device */)  // _HID: Hardware ID
            Name (_UID, 0x18)  // _UID: Unique ID
            Method (_PXM, 0, NotSerialized)  // _PXM: Device Proximity
            {
                Return (0x0C)
            }
        }

        Device (C019)
        {
            Name (_HID, "ACPI0007" /* Processor Device */)  // _HID: Hardware ID
            Name (_UID, 0x19)  // _UID: Unique ID
            Method (_PXM, 0, NotSerialized)  // _PXM: Device Proximity
            {
                Return (0x0C)
            }
        }

        Device (C01A)
        {
            Name (_HID, "ACPI0007" /* Processor Device */)  // _HID: Hardware ID
            Name (_UID, 0x1A)  // _UID: Unique ID
            Method (_PXM, 0, NotSerialized)  // _PXM: Device Proximity
            {
                Return (0x0D)
            }
        }

        Device (C01B)
        {
            Name (_HID, "ACPI0007" /* Processor Device */)  // _HID: Hardware ID
            Name (_UID, 0x1B)  // _UID: Unique ID
            Method (_PXM, 0, NotSerialized)  // _PXM: Device Proximity
            {
                Return (0x0D)
            }
        }

        Device (C01C)
        {
            Name (_HID, "ACPI0007" /* Processor Device */)  // _HID: Hardware ID
            Name (_UID, 0x1C)  // _UID: Unique ID
            Method (_PXM, 0, NotSerialized)  // _PXM: Device Proximity
            {
                Return (0x0E)
            }
        }

        Device (C01D)
        {
            Name (_HID, "ACPI0007" /* Processor Device */)  // _HID: Hardware ID
            Name (_UID, 0x1D)  // _UID: Unique ID
            Method (_PXM, 0, NotSerialized)  // _PXM: Device Proximity
            {
                Return (0x0E)
            }
        }

        Device (C01E)
        {
            Name (_HID, "ACPI0007" /* Processor Device */)  // _HID: Hardware ID
            Name (_UID, 0x1E)  // _UID: Unique ID
            Method (_PXM, 0, NotSerialized)  // _PXM: Device Proximity
            {
                Return (0x0F)
            }
        }

        Device (C01F)
        {
            Name (_HID, "ACPI0007" /* Processor Device */)  // _HID: Hardware ID
            Name (_UID, 0x1F)  // _UID: Unique ID
            Method (_PXM, 0, NotSerialized)  // _PXM: Device Proximity
            {
                Return (0x0F)
            }
        }

        Device (C020)
        {
            Name (_HID, "ACPI0007" /* Processor Device */)  // _HID: Hardware ID
            Name (_UID, 0x20)  // _UID: Unique ID
            Method (_PXM, 0, NotSerialized)  // _PXM: Device Proximity
            {
                Return (0x10)
            }
        }

        Device (C021)
        {
            Name (_HID, "ACPI0007" /* Processor Device */)  // _HID: Hardware ID
            Name (_UID, 0x21)  // _UID: Unique ID
            Method (_PXM, 0, NotSerialized)  // _PXM: Device Proximity
            {
                Return (0x10)
            }
        }

        Device (C022)
        {
            Name (_HID, "ACPI0007" /* Processor Device */)  // _HID: Hardware ID
            Name (_UID, 0x22)  // _UID: Unique ID
            Method (_PXM, 0, NotSerialized)  // _PXM: Device Proximity
            {
                Return (0x11)
            }
        }

        Device (C023)
        {
            Name (_HID, "ACPI0007" /* Processor Device */)  // _HID: Hardware ID
            Name (_UID, 0x23)  // _UID: Unique ID
            Method (_PXM, 0, NotSerialized)  // _PXM: Device Proximity
            {
                Return (0x11)
            }
        }

        Device (C024)
        {
            Name (_HID, "ACPI0007" /* Processor Device */)  // _HID: Hardware ID
            Name (_UID, 0x24)  // _UID: Unique ID
            Method (_PXM, 0, NotSerialized)  // _PXM: Device Proximity
            {
                Return (0x12)
            }
        }

        Device (C025)
        {
            Name (_HID, "ACPI0007" /* Processor Device */)  // _HID: Hardware ID
            Name (_UID, 0x25)  // _UID: Unique ID
            Method (_PXM, 0, NotSerialized)  // _PXM: Device Proximity
            {
                Return (0x12)
            }
        }

        Device (C026)
        {
            Name (_HID, "ACPI0007" /* Processor Device */)  // _HID: Hardware ID
            Name (_UID, 0x26)  // _UID: Unique ID
            Method (_PXM, 0, NotSerialized)  // _PXM: Device Proximity
            {
                Return (0x13)
            }
        }

        Device (C027)
        {
            Name (_HID, "ACPI0007" /* Processor Device */)  // _HID: Hardware ID
            Name (_UID, 0x27)  // _UID: Unique ID
            Method (_PXM, 0, NotSerialized)  // _PXM: Device Proximity
            {
                Return (0x13)
            }
        }

        Device (C028)
        {
            Name (_HID, "ACPI0007" /* Processor Device */)  // _HID: Hardware ID
            Name (_UID, 0x28)  // _UID: Unique ID
            Method (_PXM, 0, NotSerialized)  // _PXM: Device Proximity
            {
                Return (0x14)
            }
        }

        Device (C029)
        {
            Name (_HID, "ACPI0007" /* Processor Device */)  // _HID: Hardware ID
            Name (_UID, 0x29)  // _UID: Unique ID
            Method (_PXM, 0, NotSerialized)  // _PXM: Device Proximity
            {
                Return (0x14)
            }
        }

        Device (C02A)
        {
            Name (_HID, "ACPI0007" /* Processor Device */)  // _HID: Hardware ID
            Name (_UID, 0x2A)  // _UID: Unique ID
            Method (_PXM, 0, NotSerialized)  // _PXM: Device Proximity
            {
                Return (0x15)
            }
        }

        Device (C02B)
        {
            Name (_HID, "ACPI0007" /* Processor Device */)  // _HID: Hardware ID
            Name (_UID, 0x2B)  // _UID: Unique ID
            Method (_PXM, 0, NotSerialized)  // _PXM: Device Proximity
            {
                Return (0x15)
            }
        }

        Device (C02C)
        {
            Name (_HID, "ACPI0007" /* Processor Device */)  // _HID: Hardware ID
            Name (_UID, 0x2C)  // _UID: Unique ID
            Method (_PXM, 0, NotSerialized)  // _PXM: Device Proximity
            {
                Return (0x16)
            }
        }

        Device (C02D)
        {
            Name (_HID, "ACPI0007" /* Processor Device */)  // _HID: Hardware ID
            Name (_UID, 0x2D)  // _UID: Unique ID
            Method (_PXM, 0, NotSerialized)  // _PXM: Device Proximity
            {
                Return (0x16)
            }
        }

        Device (C02E)
        {
            Name (_HID, "ACPI0007" /* Processor Device */)  // _HID: Hardware ID
            Name (_UID, 0x2E)  // _UID: Unique ID
            Method (_PXM, 0, NotSerialized)  // _PXM: Device Proximity
            {
                Return (0x17)
            }
        }

        Device (C02F)
        {
            Name (_HID, "ACPI0007" /* Processor Device */)  // _HID: Hardware ID
            Name (_UID, 0x2F)  // _UID: Unique ID
            Method (_PXM, 0, NotSerialized)  // _PXM: Device Proximity
            {
                Return (0x17)
            }
        }

        Device (C030)
        {
            Name (_HID, "ACPI0007" /* Processor Device */)  // _HID: Hardware ID
            Name (_UID, 0x30)  // _UID: Unique ID
            Method (_PXM, 0, NotSerialized)  // _PXM: Device Proximity
            {
                Return (0x18)
            }
        }

        Device (C031)
        {
            Name (_HID, "ACPI0007" /* Processor Device */)  // _HID: Hardware ID
            Name (_UID, 0x31)  // _UID: Unique ID
            Method (_PXM, 0, NotSerialized)  // _PXM: Device Proximity
            {
                Return (0x18)
            }
        }

        Device (C032)
        {
            Name (_HID, "ACPI0007" /* Processor Device */)  // _HID: Hardware ID
            Name (_UID, 0x32)  // _UID: Unique ID
            Method (_PXM, 0, NotSerialized)  // _PXM: Device Proximity
            {
                Return (0x19)
            }
        }

        Device (C033)
        {
            Name (_HID, "ACPI0007" /* Processor Device */)  // _HID: Hardware ID
            Name (_UID, 0x33)  // _UID: Unique ID
            Method (_PXM, 0, NotSerialized)  // _PXM: Device Proximity
            {
                Return (0x19)
            }
        }

        Device (C034)
        {
            Name (_HID, "ACPI0007" /* Processor Device */)  // _HID: Hardware ID
            Name (_UID, 0x34)  // _UID: Unique ID
            Method (_PXM, 0, NotSerialized)  // _PXM: Device Proximity
            {
                Return (0x1A)
            }
        }

        Device (C035)
        {
            Name (_HID, "ACPI0007" /* Processor Device */)  // _HID: Hardware ID
            Name (_UID, 0x35)  // _UID: Unique ID
            Method (_PXM, 0, NotSerialized)  // _PXM: Device Proximity
            {
                Return (0x1A)
            }
        }

        Device (C036)
        {
            Name (_HID, "ACPI0007" /* Processor Device */)  // _HID: Hardware ID
            Name (_UID, 0x36)  // _UID: Unique ID
            Method (_PXM, 0, NotSerialized)  // _PXM: Device Proximity
            {
                Return (0x1B)
            }
        }

        Device (C037)
        {
            Name (_HID, "ACPI0007" /* Processor Device */)  // _HID: Hardware ID
            Name (_UID, 0x37)  // _UID: Unique ID
            Method (_PXM, 0, NotSerialized)  // _PXM: Device Proximity
            {
                Return (0x1B)
            }
        }

        Device (C038)
        {
            Name (_HID, "ACPI0007" /* Processor Device */)  // _HID: Hardware ID
            Name (_UID, 0x38)  // _UID: Unique ID
            Method (_PXM, 0, NotSerialized)  // _PXM: Device Proximity
            {
                Return (0x1C)
            }
        }

        Device (C039)
        {
            Name (_HID, "ACPI0007" /* Processor Device */)  // _HID: Hardware ID
            Name (_UID, 0x39)  // _UID: Unique ID
            Method (_PXM, 0, NotSerialized)  // _PXM: Device Proximity
            {
                Return (0x1C)
            }
        }

        Device (C03A)
        {
            Name (_HID, "ACPI0007" /* Processor Device */)  // _HID: Hardware ID
            Name (_UID, 0x3A)  // _UID: Unique ID
            Method (_PXM, 0, NotSerialized)  // _PXM: Device Proximity
            {
                Return (0x1D)
            }
        }

        Device (C03B)
        {
            Name (_HID, "ACPI0007" /* Processor Device */)  // _HID: Hardware ID
            Name (_UID, 0x3B)  // _UID: Unique ID
            Method (_PXM, 0, NotSerialized)  // _PXM: Device Proximity
            {
                Return (0x1D)
            }
        }

        Device (C03C)
        {
            Name (_HID, "ACPI0007" /* Processor Device */)  // _HID: Hardware ID
            Name (_UID, 0x3C)  // _UID: Unique ID
            Method (_PXM, 0, NotSerialized)  // _PXM: Device Proximity
            {
                Return (0x1E)
            }
        }

        Device (C03D)
        {
            Name (_HID, "ACPI0007" /* Processor Device */)  // _HID: Hardware ID
            Name (_UID, 0x3D)  // _UID: Unique ID
            Method (_PXM, 0, NotSerialized)  // _PXM: Device Proximity
            {
                Return (0x1E)
            }
        }

        Device (C03E)
        {
            Name (_HID, "ACPI0007" /* Processor Device */)  // _HID: Hardware ID
            Name (_UID, 0x3E)  // _UID: Unique ID
            Method (_PXM, 0, NotSerialized)  // _PXM: Device Proximity
            {
                Return (0x1F)
            }
        }

        Device (C03F)
        {
            Name (_HID, "ACPI0007" /* Processor Device */)  // _HID: Hardware ID
            Name (_UID, 0x3F)  // _UID: Unique ID
            Method (_PXM, 0, NotSerialized)  // _PXM: Device Proximity
            {
                Return (0x1F)
            }
        }

        Device (C040)
        {
            Name (_HID, "ACPI0007" /* Processor Device */)  // _HID: Hardware ID
            Name (_UID, 0x40)  // _UID: Unique ID
            Method (_PXM, 0, NotSerialized)  // _PXM: Device Proximity
            {
                Return (0x20)
            }
        }

        Device (C041)
        {
            Name (_HID, "ACPI0007" /* Processor Device */)  // _HID: Hardware ID
            Name (_UID, 0x41)  // _UID: Unique ID
            Method (_PXM, 0, NotSerialized)  // _PXM: Device Proximity
            {
                Return (0x20)
            }
        }

        Device (C042)
        {
            Name (_HID, "ACPI0007" /* Processor Device */)  // _HID: Hardware ID
            Name (_UID, 0x42)  // _UID: Unique ID
            Method (_PXM, 0, NotSerialized)  // _PXM: Device Proximity
            {
                Return (0x21)
            }
        }

        Device (C043)
        {
            Name (_HID, "ACPI0007" /* Processor Device */)  // _HID: Hardware ID
            Name (_UID, 0x43)  // _UID: Unique ID
            Method (_PXM, 0, NotSerialized)  // _PXM: Device Proximity
            {
                Return (0x21)
            }
        }

        Device (C044)
        {
            Name (_HID, "ACPI0007" /* Processor Device */)  // _HID: Hardware ID
            Name (_UID, 0x44)  // _UID: Unique ID
            Method (_PXM, 0, NotSerialized)  // _PXM: Device Proximity
            {
                Return (0x22)
            }
        }

        Device (C045)
        {
            Name (_HID, "ACPI0007" /* Processor Device */)  // _HID: Hardware ID
            Name (_UID, 0x45)  // _UID: Unique ID
            Method (_PXM, 0, NotSerialized)  // _PXM: Device Proximity
            {
                Return (0x22)
            }
        }

        Device (C046)
        {
            Name (_HID, "ACPI0007" /* Processor Device */)  // _HID: Hardware ID
            Name (_UID, 0x46)  // _UID: Unique ID
            Method (_PXM, 0, NotSerialized)  // _PXM: Device Proximity
            {
                Return (0x23)
            }
        }

        Device (C047)
        {
            Name (_HID, "ACPI0007" /* Processor Device */)  // _HID: Hardware ID
            Name (_UID, 0x47)  // _UID: Unique ID
            Method (_PXM, 0, NotSerialized)  // _PXM: Device Proximity
            {
                Return (0x23)
            }
        }

        Device (C048)
        {
            Name (_HID, "ACPI0007" /* Processor Device */)  // _HID: Hardware ID
            Name (_UID, 0x48)  // _UID: Unique ID
            Method (_PXM, 0, NotSerialized)  // _PXM: Device Proximity
            {
                Return (0x24)
            }
        }

        Device (C049)
        {
            Name (_HID, "ACPI0007" /* Processor Device */)  // _HID: Hardware ID
            Name (_UID, 0x49)  // _UID: Unique ID
            Method (_PXM, 0, NotSerialized)  // _PXM: Device Proximity
            {
                Return (0x24)
            }
        }

        Device (C04A)
        {
            Name (_HID, "ACPI0007" /* Processor Device */)  // _HID: Hardware ID
            Name (_UID, 0x4A)  // _UID: Unique ID
            Method (_PXM, 0, NotSerialized)  // _PXM: Device Proximity
            {
                Return (0x25)
            }
        }

        Device (C04B)
        {
            Name (_HID, "ACPI0007" /* Processor Device */)  // _HID: Hardware ID
            Name (_UID, 0x4B)  // _UID: Unique ID
            Method (_PXM, 0, NotSerialized)  // _PXM: Device Proximity
            {
                Return (0x25)
            }
        }

        Device (C04C)
        {
            Name (_HID, "ACPI0007" /* Processor Device */)  // _HID: Hardware ID
            Name (_UID, 0x4C)  // _UID: Unique ID
            Method (_PXM, 0, NotSerialized)  // _PXM: Device Proximity
            {
                Return (0x26)
            }
        }

        Device (C04D)
        {
            Name (_HID, "ACPI0007" /* Processor Device */)  // _HID: Hardware ID
            Name (_UID, 0x4D)  // _UID: Unique ID
            Method (_PXM, 0, NotSerialized)  // _PXM: Device Proximity
            {
                Return (0x26)
            }
        }

        Device (C04E)
        {
            Name (_HID, "ACPI0007" /* Processor Device */)  // _HID: Hardware ID
            Name (_UID, 0x4E)  // _UID: Unique ID
            Method (_PXM, 0, NotSerialized)  // _PXM: Device Proximity
            {
                Return (0x27)
            }
        }

        Device (C04F)
        {
            Name (_HID, "ACPI0007" /* Processor Device */)  // _HID: Hardware ID
            Name (_UID, 0x4F)  // _UID: Unique ID
            Method (_PXM, 0, NotSerialized)  // _PXM: Device Proximity
            {
                Return (0x27)
            }
        }

        Device (C050)
        {
            Name (_HID, "ACPI0007" /* Processor Device */)  // _HID: Hardware ID
            Name (_UID, 0x50)  // _UID: Unique ID
            Method (_PXM, 0, NotSerialized)  // _PXM: Device Proximity
            {
                Return (0x28)
            }
        }

        Device (C051)
        {
            Name (_HID, "ACPI0007" /* Processor Device */)  // _HID: Hardware ID
            Name (_UID, 0x51)  // _UID: Unique ID
            Method (_PXM, 0, NotSerialized)  // _PXM: Device Proximity
            {
                Return (0x28)
            }
        }

        Device (C052)
        {
            Name (_HID, "ACPI0007" /* Processor Device */)  // _HID: Hardware ID
            Name (_UID, 0x52)  // _UID: Unique ID
            Method (_PXM, 0, NotSerialized)  // _PXM: Device Proximity
            {
                Return (0x29)
            }
        }

        Device (C053)
        {
            Name (_HID, "ACPI0007" /* Processor Device */)  // _HID: Hardware ID
            Name (_UID, 0x53)  // _UID: Unique ID
            Method (_PXM, 0, NotSerialized)  // _PXM: Device Proximity
            {
                Return (0x29)
            }
        }

        Device (C054)
        {
            Name (_HID, "ACPI0007" /* Processor Device */)  // _HID: Hardware ID
            Name (_UID, 0x54)  // _UID: Unique ID
            Method (_PXM, 0, NotSerialized)  // _PXM: Device Proximity
            {
                Return (0x2A)
            }
        }

        Device (C055)
        {
            Name (_HID, "ACPI0007" /* Processor Device */)  // _HID: Hardware ID
            Name (_UID, 0x55)  // _UID: Unique ID
            Method (_PXM, 0, NotSerialized)  // _PXM: Device Proximity
            {
                Return (0x2A)
            }
        }

        Device (C056)
        {
            Name (_HID, "ACPI0007" /* Processor Device */)  // _HID: Hardware ID
            Name (_UID, 0x56)  // _UID: Unique ID
            Method (_PXM, 0, NotSerialized)  // _PXM: Device Proximity
            {
                Return (0x2B)
            }
        }

        Device (C057)
        {
            Name (_HID, "ACPI0007" /* Processor Device */)  // _HID: Hardware ID
            Name (_UID, 0x57)  // _UID: Unique ID
            Method (_PXM, 0, NotSerialized)  // _PXM: Device Proximity
            {
                Return (0x2B)
            }
        }

        Device (C058)
        {
            Name (_HID, "ACPI0007" /* Processor Device */)  // _HID: Hardware ID
            Name (_UID, 0x58)  // _UID: Unique ID
            Method (_PXM, 0, NotSerialized)  // _PXM: Device Proximity
            {
                Return (0x2C)
            }
        }

        Device (C059)
        {
            Name (_HID, "ACPI0007" /* Processor Device */)  // _HID: Hardware ID
            Name (_UID, 0x59)  // _UID: Unique ID
            Method (_PXM, 0, NotSerialized)  // _PXM: Device Proximity
            {
                Return (0x2C)
            }
        }

        Device (C05A)
        {
            Name (_HID, "ACPI0007" /* Processor Device */)  // _HID: Hardware ID
            Name (_UID, 0x5A)  // _UID: Unique ID
            Method (_PXM, 0, NotSerialized)  // _PXM: Device Proximity
            {
                Return (0x2D)
            }
        }

        Device (C05B)
        {
            Name (_HID, "ACPI0007" /* Processor Device */)  // _HID: Hardware ID
            Name (_UID, 0x5B)  // _UID: Unique ID
            Method (_PXM, 0, NotSerialized)  // _PXM: Device Proximity
            {
                Return (0x2D)
            }
        }

        Device (C05C)
        {
            Name (_HID, "ACPI0007" /* Processor Device */)  // _HID: Hardware ID
            Name (_UID, 0x5C)  // _UID: Unique ID
            Method (_PXM, 0, NotSerialized)  // _PXM: Device Proximity
            {
                Return (0x2E)
            }
        }

        Device (C05D)
        {
            Name (_HID, "ACPI0007" /* Processor Device */)  // _HID: Hardware ID
            Name (_UID, 0x5D)  // _UID: Unique ID
            Method (_PXM, 0, NotSerialized)  // _PXM: Device Proximity
            {
                Return (0x2E)
            }
        }

        Device (C05E)
        {
            Name (_HID, "ACPI0007" /* Processor Device */)  // _HID: Hardware ID
            Name (_UID, 0x5E)  // _UID: Unique ID
            Method (_PXM, 0, NotSerialized)  // _PXM: Device Proximity
            {
                Return (0x2F)
            }
        }

        Device (C05F)
        {
            Name (_HID, "ACPI0007" /* Processor Device */)  // _HID: Hardware ID
            Name (_UID, 0x5F)  // _UID: Unique ID
            Method (_PXM, 0, NotSerialized)  // _PXM: Device Proximity
            {
                Return (0x2F)
            }
        }

        Device (C060)
        {
            Name (_HID, "ACPI0007" /* Processor Device */)  // _HID: Hardware ID
            Name (_UID, 0x60)  // _UID: Unique ID
            Method (_PXM, 0, NotSerialized)  // _PXM: Device Proximity
            {
                Return (0x30)
            }
        }

        Device (C061)
        {
            Name (_HID, "ACPI0007" /* Processor Device */)  // _HID: Hardware ID
            Name (_UID, 0x61)  // _UID: Unique ID
            Method (_PXM, 0, NotSerialized)  // _PXM: Device Proximity
            {
                Return (0x30)
            }
        }

        Device (C062)
        {
            Name (_HID, "ACPI0007" /* Processor Device */)  // _HID: Hardware ID
            Name (_UID, 0x62)  // _UID: Unique ID
            Method (_PXM, 0, NotSerialized)  // _PXM: Device Proximity
            {
                Return (0x31)
            }
        }

        Device (C063)
        {
            Name (_HID, "ACPI0007" /* Processor Device */)  // _HID: Hardware ID
            Name (_UID, 0x63)  // _UID: Unique ID
            Method (_PXM, 0, NotSerialized)  // _PXM: Device Proximity
            {
                Return (0x31)
            }
        }

        Device (C064)
        {
            Name (_HID, "ACPI0007" /* Processor Device */)  // _HID: Hardware ID
            Name (_UID, 0x64)  // _UID: Unique ID
            Method (_PXM, 0, NotSerialized)  // _PXM: Device Proximity
            {
                Return (0x32)
            }
        }

        Device (C065)
        {
            Name (_HID, "ACPI0007" /* Processor Device */)  // _HID: Hardware ID
            Name (_UID, 0x65)  // _UID: Unique ID
            Method (_PXM, 0, NotSerialized)  // _PXM: Device Proximity
            {
                Return (0x32)
            }
        }

        Device (C066)
        {
            Name (_HID, "ACPI0007" /* Processor Device */)  // _HID: Hardware ID
            Name (_UID, 0x66)  // _UID: Unique ID
            Method (_PXM, 0, NotSerialized)  // _PXM: Device Proximity
            {
                Return (0x33)
            }
        }

        Device (C067)
        {
            Name (_HID, "ACPI0007" /* Processor Device */)  // _HID: Hardware ID
            Name (_UID, 0x67)  // _UID: Unique ID
            Method (_PXM, 0, NotSerialized)  // _PXM: Device Proximity
            {
                Return (0x33)
            }
        }

        Device (C068)
        {
            Name (_HID, "ACPI0007" /* Processor Device */)  // _HID: Hardware ID
            Name (_UID, 0x68)  // _UID: Unique ID
            Method (_PXM, 0, NotSerialized)  // _PXM: Device Proximity
            {
                Return (0x34)
            }
        }

        Device (C069)
        {
            Name (_HID, "ACPI0007" /* Processor Device */)  // _HID: Hardware ID
            Name (_UID, 0x69)  // _UID: Unique ID
            Method (_PXM, 0, NotSerialized)  // _PXM: Device Proximity
            {
                Return (0x34)
            }
        }

        Device (C06A)
        {
            Name (_HID, "ACPI0007" /* Processor Device */)  // _HID: Hardware ID
            Name (_UID, 0x6A)  // _UID: Unique ID
            Method (_PXM, 0, NotSerialized)  // _PXM: Device Proximity
            {
                Return (0x35)
            }
        }

        Device (C06B)
        {
            Name (_HID, "ACPI0007" /* Processor Device */)  // _HID: Hardware ID
            Name (_UID, 0x6B)  // _UID: Unique ID
            Method (_PXM, 0, NotSerialized)  // _PXM: Device Proximity
            {
                Return (0x35)
            }
        }

        Device (C06C)
        {
            Name (_HID, "ACPI0007" /* Processor Device */)  // _HID: Hardware ID
            Name (_UID, 0x6C)  // _UID: Unique ID
            Method (_PXM, 0, NotSerialized)  // _PXM: Device Proximity
            {
                Return (0x36)
            }
        }

        Device (C06D)
        {
            Name (_HID, "ACPI0007" /* Processor Device */)  // _HID: Hardware ID
            Name (_UID, 0x6D)  // _UID: Unique ID
            Method (_PXM, 0, NotSerialized)  // _PXM: Device Proximity
            {
                Return (0x36)
            }
        }

        Device (C06E)
        {
            Name (_HID, "ACPI0007" /* Processor Device */)  // _HID: Hardware ID
            Name (_UID, 0x6E)  // _UID: Unique ID
            Method (_PXM, 0, NotSerialized)  // _PXM: Device Proximity
            {
                Return (0x37)
            }
        }

        Device (C06F)
        {
            Name (_HID, "ACPI0007" /* Processor Device */)  // _HID: Hardware ID
            Name (_UID, 0x6F)  // _UID: Unique ID
            Method (_PXM, 0, NotSerialized)  // _PXM: Device Proximity
            {
                Return (0x37)
            }
        }

        Device (C070)
        {
            Name (_HID, "ACPI0007" /* Processor Device */)  // _HID: Hardware ID
            Name (_UID, 0x70)  // _UID: Unique ID
            Method (_PXM, 0, NotSerialized)  // _PXM: Device Proximity
            {
                Return (0x38)
            }
        }

        Device (C071)
        {
            Name (_HID, "ACPI0007" /* Processor Device */)  // _HID: Hardware ID
            Name (_UID, 0x71)  // _UID: Unique ID
            Method (_PXM, 0, NotSerialized)  // _PXM: Device Proximity
            {
                Return (0x38)
            }
        }

        Device (C072)
        {
            Name (_HID, "ACPI0007" /* Processor Device */)  // _HID: Hardware ID
            Name (_UID, 0x72)  // _UID: Unique ID
            Method (_PXM, 0, NotSerialized)  // _PXM: Device Proximity
            {
                Return (0x39)
            }
        }

        Device (C073)
        {
            Name (_HID, "ACPI0007" /* Processor Device */)  // _HID: Hardware ID
            Name (_UID, 0x73)  // _UID: Unique ID
            Method (_PXM, 0, NotSerialized)  // _PXM: Device Proximity
            {
                Return (0x39)
            }
        }

        Device (C074)
        {
            Name (_HID, "ACPI0007" /* Processor Device */)  // _HID: Hardware ID
            Name (_UID, 0x74)  // _UID: Unique ID
            Method (_PXM, 0, NotSerialized)  // _PXM: Device Proximity
            {
                Return (0x3A)
            }
        }

        Device (C075)
        {
            Name (_HID, "ACPI0007" /* Processor Device */)  // _HID: Hardware ID
            Name (_UID, 0x75)  // _UID: Unique ID
            Method (_PXM, 0, NotSerialized)  // _PXM: Device Proximity
            {
                Return (0x3A)
            }
        }

        Device (C076)
        {
            Name (_HID, "ACPI0007" /* Processor Device */)  // _HID: Hardware ID
            Name (_UID, 0x76)  // _UID: Unique ID
            Method (_PXM, 0, NotSerialized)  // _PXM: Device Proximity
            {
                Return (0x3B)
            }
        }

        Device (C077)
        {
            Name (_HID, "ACPI0007" /* Processor Device */)  // _HID: Hardware ID
            Name (_UID, 0x77)  // _UID: Unique ID
            Method (_PXM, 0, NotSerialized)  // _PXM: Device Proximity
            {
                Return (0x3B)
            }
        }

        Device (C078)
        {
            Name (_HID, "ACPI0007" /* Processor Device */)  // _HID: Hardware ID
            Name (_UID, 0x78)  // _UID: Unique ID
            Method (_PXM, 0, NotSerialized)  // _PXM: Device Proximity
            {
                Return (0x3C)
            }
        }

        Device (C079)
        {
            Name (_HID, "ACPI0007" /* Processor Device */)  // _HID: Hardware ID
            Name (_UID, 0x79)  // _UID: Unique ID
            Method (_PXM, 0, NotSerialized)  // _PXM: Device Proximity
            {
                Return (0x3C)
            }
        }

        Device (C07A)
        {
            Name (_HID, "ACPI0007" /* Processor Device */)  // _HID: Hardware ID
            Name (_UID, 0x7A)  // _UID: Unique ID
            Method (_PXM, 0, NotSerialized)  // _PXM: Device Proximity
            {
                Return (0x3D)
            }
        }

        Device (C07B)
        {
            Name (_HID, "ACPI0007" /* Processor Device */)  // _HID: Hardware ID
            Name (_UID, 0x7B)  // _UID: Unique ID
            Method (_PXM, 0, NotSerialized)  // _PXM: Device Proximity
            {
                Return (0x3D)
            }
        }

        Device (C07C)
        {
            Name (_HID, "ACPI0007" /* Processor Device */)  // _HID: Hardware ID
            Name (_UID, 0x7C)  // _UID: Unique ID
            Method (_PXM, 0, NotSerialized)  // _PXM: Device Proximity
            {
                Return (0x3E)
            }
        }

        Device (C07D)
        {
            Name (_HID, "ACPI0007" /* Processor Device */)  // _HID: Hardware ID
            Name (_UID, 0x7D)  // _UID: Unique ID
            Method (_PXM, 0, NotSerialized)  // _PXM: Device Proximity
            {
                Return (0x3E)
            }
        }

        Device (C07E)
        {
            Name (_HID, "ACPI0007" /* Processor Device */)  // _HID: Hardware ID
            Name (_UID, 0x7E)  // _UID: Unique ID
            Method (_PXM, 0, NotSerialized)  // _PXM: Device Proximity
            {
                Return (0x3F)
            }
        }

        Device (C07F)
        {
            Name (_HID, "ACPI0007" /* Processor Device */)  // _HID: Hardware ID
            Name (_UID, 0x7F)  // _UID: Unique ID
            Method (_PXM, 0, NotSerialized)  // _PXM: Device Proximity
            {
                Return (0x3F)
            }
        }

        Device (COM1)
        {
            Name (_HID, EisaId ("PNP0501") /* 16550A-compatible COM Serial Port */)  // _HID: Hardware ID
            Name (_UID, Zero)  // _UID: Unique ID
            Name (_CRS, ResourceTemplate ()  // _CRS: Current Resource Settings
            {
                IO (Decode16,
                    0x03F8,             // Range Minimum
                    0x03F8,             // Range Maximum
                    0x01,               // Alignment
                    0x08,               // Length
                    )
                Interrupt (ResourceConsumer, Edge, ActiveHigh, Exclusive, ,, )
                {
                    0x00000004,
                }
            })
        }

        Device (PWRB)
        {
            Name (_HID, EisaId ("PNP0C0C") /* Power Button Device */)  // _HID: Hardware ID
            Name (_UID, Zero)  // _UID: Unique ID
        }

        Device (GED)
        {
            Name (_HID, "ACPI0013" /* Generic Event Device */)  // _HID: Hardware ID
            Name (_UID, Zero)  // _UID: Unique ID
            Name (_CRS, ResourceTemplate ()  // _CRS: Current Resource Settings
            {
                Interrupt (ResourceConsumer, Edge, ActiveHigh, Exclusive, ,, )
                {
                    0x00000005,
                }
            })
            OperationRegion (EREG, SystemIO, 0x0603, One)
            Field (EREG, ByteAcc, NoLock, WriteAsZeros)
            {
                EVST,   8
            }

            Method (_EVT, 1, Serialized)  // _EVT: Event
            {
                Local0 = EVST /* \_SB_.GED_.EVST */
                If ((Local0 & One))
                {
                    Notify (\_SB.PWRB, 0x80) // Status Change
                }
            }
        }
    }

    Name (_S5, Package (0x04)  // _S5_: S5 System State
    {
        0x05, 
        Zero, 
        Zero, 
        Zero
    })
}
